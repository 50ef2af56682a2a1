"""`/tokenize` and `/detokenize` on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from tests.api.conftest import MODEL

USER = [{"role": "user", "content": "Hi"}]


async def test_a_prompt_has_vllms_answer(client: httpx.AsyncClient) -> None:
    response = await client.post("/tokenize", json={"prompt": "Hello there"})

    assert response.json() == {"count": 2, "max_model_len": 512, "tokens": [19556, 665], "token_strs": None}


async def test_token_strings_are_the_vocabularys(client: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": "Hello there", "return_token_strs": True}

    assert (await client.post("/tokenize", json=body)).json()["token_strs"] == ["Hello", "Ġthere"]


async def test_messages_are_what_a_chat_sends_to_the_model(client: httpx.AsyncClient, loaded: LoadedModel) -> None:
    with_prompt = (await client.post("/tokenize", json={"messages": USER})).json()
    without = (await client.post("/tokenize", json={"messages": USER, "add_generation_prompt": False})).json()

    assert tuple(with_prompt["tokens"]) == loaded.prompts.chat(USER)
    assert with_prompt["tokens"][: without["count"]] == without["tokens"]
    assert loaded.detokenizer.decode(with_prompt["tokens"][without["count"] :], skip_special_tokens=False) == (
        "<|im_start|>assistant\n"
    )


async def test_a_last_message_may_be_left_open(client: httpx.AsyncClient, loaded: LoadedModel) -> None:
    body = {"messages": [*USER, {"role": "assistant", "content": "It is"}], "continue_final_message": True}
    tokens = (await client.post("/tokenize", json=body)).json()["tokens"]

    assert loaded.detokenizer.decode(tokens, skip_special_tokens=False).endswith("assistant\nIt is")


async def test_tools_are_in_the_prompt(client: httpx.AsyncClient, loaded: LoadedModel) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    tokens = (await client.post("/tokenize", json={"messages": USER, "tools": [tool]})).json()["tokens"]

    assert "get_weather" in loaded.detokenizer.decode(tokens)


async def test_template_variables_reach_the_template(client: httpx.AsyncClient) -> None:
    body = {"messages": USER, "chat_template_kwargs": {"messages": []}}
    response = await client.post("/tokenize", json=body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs"


@pytest.mark.parametrize("text", ["Hello there, <|im_end|> w\u00f6rld \u8a9e!", " x", ""])
async def test_detokenizing_gives_the_text_back(client: httpx.AsyncClient, text: str) -> None:
    tokens = (await client.post("/tokenize", json={"prompt": text, "add_special_tokens": False})).json()["tokens"]

    assert (await client.post("/detokenize", json={"tokens": tokens})).json() == {"prompt": text}


async def test_bad_input_is_a_400_in_openais_shape_that_names_the_field(client: httpx.AsyncClient) -> None:
    bad: list[tuple[str, Any, str]] = [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "Hi", "messages": USER}, "prompt"),
        ("/tokenize", {"prompt": ["Hi"]}, "prompt"),
        ("/tokenize", {"prompt": "Hi", "add_special_tokens": "yes"}, "add_special_tokens"),
        ("/tokenize", {"prompt": "Hi", "return_token_strs": 1}, "return_token_strs"),
        ("/tokenize", {"prompt": "Hi", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "Hi", "tools": []}, "tools"),
        ("/tokenize", {"prompt": "Hi", "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": USER, "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": USER, "tools": [{"name": "f"}]}, "tools[0].type"),
        ("/tokenize", {"prompt": "Hi", "text": "Hi"}, "text"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ("/tokenize", {"messages": USER, "chat_template": "{{ x }}"}, "chat_template"),
        ("/tokenize", {"messages": USER, "chat_template_kwargs": 5}, "chat_template_kwargs"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "1"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1, 49152]}, "tokens"),
        ("/detokenize", {"tokens": [2**64]}, "tokens"),
    ]
    for path, body, param in bad:
        response = await client.post(path, json=body)
        assert response.status_code == 400, (body, response.text)
        assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_another_model_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={"model": "gpt-4", "prompt": "Hi"} if path == "/tokenize" else {
        "model": "gpt-4", "tokens": []
    })  # fmt: skip

    assert response.status_code == 404
