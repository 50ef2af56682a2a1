"""The fields in which clients of several servers write what the answer must be."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"regex": "[0-9]+"}, "regex"),
        ({"ebnf": "root ::= [0-9]+"}, "gbnf"),
        ({"ebnf": "%llguidance {}\nstart: /[0-9]+/"}, "lark"),
    ],
)
async def test_sglangs_fields_are_constraints(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, fields: dict[str, Any], kind: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, **fields})

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert grammar.kind == kind
    assert loaded.grammars.accepts(grammar, b"17")
    assert not loaded.grammars.accepts(grammar, b"x")


@pytest.mark.parametrize("wrapped", [{}, {"name": "person"}, {"strict": False}])
async def test_a_schema_that_is_not_given_means_any_json_object(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, wrapped: dict[str, Any]
) -> None:
    wanted = {"type": "json_schema", "json_schema": wrapped}
    response = await client.post("/v1/chat/completions", json={**CHAT, "response_format": wanted})

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert grammar.kind == "json_object"
    assert loaded.grammars.accepts(grammar, b'{"a": [1]}')
    assert not loaded.grammars.accepts(grammar, b"[1]")


async def test_one_constraint_may_be_written_in_several_ways_at_once(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    lark = "%llguidance {}\nstart: /[0-9]+/"
    fields = {
        "guided_decoding_backend": "guidance",
        "guided_grammar": lark,
        "structured_outputs": {"grammar": lark},
    }
    response = await client.post("/v1/chat/completions", json={**CHAT, **fields})

    assert response.status_code == 200, response.text
    assert executor.requests[0].grammar is not None


async def test_constraints_that_differ_are_refused(client: httpx.AsyncClient) -> None:
    fields = {"regex": "a", "guided_regex": "a", "guided_choice": ["b"]}
    response = await client.post("/v1/chat/completions", json={**CHAT, **fields})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "guided_choice"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"regex": "("}, "regex"),
        ({"regex": 5}, "regex"),
        ({"ebnf": "root ::= ("}, "ebnf"),
        ({"ebnf": []}, "ebnf"),
        ({"guided_decoding_backend": 5}, "guided_decoding_backend"),
    ],
)
async def test_bad_ones_are_refused_by_name(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, **fields})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_json_object_may_have_a_schema_as_huggingface_hub_writes_it(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for value, status in ((schema, 200), ({"type": "thing"}, 400)):
        body = {**CHAT, "response_format": {"type": "json_object", "value": value}}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == "response_format.value"
    [request] = executor.requests
    assert request.grammar is not None
    assert loaded.grammars.accepts(request.grammar, b'{"a": 1}')
    assert not loaded.grammars.accepts(request.grammar, b"{}")
