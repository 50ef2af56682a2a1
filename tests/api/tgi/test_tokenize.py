"""Its tokenizer on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel


async def test_each_token_has_its_id_its_text_and_its_place(client: httpx.AsyncClient) -> None:
    response = await client.post("/tgi/tokenize", json={"inputs": "Hello there"})

    assert response.json() == [
        {"id": 19556, "text": "Hello", "start": 0, "stop": 5},
        {"id": 665, "text": " there", "start": 5, "stop": 11},
    ]


async def test_places_are_in_bytes_and_a_shared_character_is_told_whole(
    client: httpx.AsyncClient, loaded: LoadedModel
) -> None:
    text = "é<|im_end|> \U0001f9ff x"
    tokens = (await client.post("/tgi/tokenize", json={"inputs": text})).json()

    assert tuple(token["id"] for token in tokens) == loaded.prompts.completion(text)
    assert all(text.encode()[token["start"] : token["stop"]].decode() == token["text"] for token in tokens)
    assert "<|im_end|>" in [token["text"] for token in tokens]
    assert [token["stop"] for token in tokens][-1] == len(text.encode())


async def test_a_prompt_is_truncated_as_for_an_answer(client: httpx.AsyncClient) -> None:
    body = {"inputs": "Hello there", "parameters": {"truncate": 1, "max_new_tokens": 5}}

    assert [token["id"] for token in (await client.post("/tgi/tokenize", json=body)).json()] == [665]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "inputs"),
        ({"inputs": ""}, "inputs"),
        ({"inputs": ["Hi"]}, "inputs"),
        ({"inputs": "Hi", "add_special_tokens": False}, "add_special_tokens"),
        ({"inputs": "Hi", "parameters": {"truncate": 0}}, "truncate"),
    ],
)
async def test_bad_input_is_refused_in_its_shape(client: httpx.AsyncClient, body: dict[str, Any], named: str) -> None:
    response = await client.post("/tgi/tokenize", json=body)

    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert named in response.json()["error"]
