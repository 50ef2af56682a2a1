"""Its Messages API on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.scripted_executor import ScriptedExecutor

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("wanted", "kind", "definition"),
    [
        ({"type": "json", "value": SCHEMA}, "json_schema", '"age"'),
        ({"type": "json_object", "value": SCHEMA}, "json_schema", '"age"'),
        ({"type": "json_schema", "value": {"name": "person", "schema": SCHEMA}}, "json_schema", '"age"'),
        ({"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}, "json_schema", '"age"'),
        ({"type": "regex", "value": "[0-9]{3}"}, "regex", "[0-9]{3}"),
    ],
)
async def test_an_answers_format_may_be_written_as_its_grammars_are(
    client: httpx.AsyncClient, executor: ScriptedExecutor, wanted: dict[str, Any], kind: str, definition: str
) -> None:
    response = await client.post("/tgi/v1/chat/completions", json={**ASK, "response_format": wanted})

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert grammar.kind == kind
    assert definition in grammar.definition


@pytest.mark.parametrize(
    "wanted",
    [{"type": "yaml", "value": ""}, {"type": "regex", "value": 5}, {"type": "json", "value": None}, {"value": SCHEMA}],
)
async def test_other_formats_are_refused_in_its_shape(client: httpx.AsyncClient, wanted: dict[str, Any]) -> None:
    response = await client.post("/tgi/v1/chat/completions", json={**ASK, "response_format": wanted})

    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert "response_format" in response.json()["error"]


@pytest.mark.parametrize("choice", ["clock", {"function": {"name": "clock"}}])
async def test_a_function_is_chosen_by_its_name(
    client: httpx.AsyncClient, executor: ScriptedExecutor, choice: Any
) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("clock", "dial")]
    response = await client.post("/tgi/v1/chat/completions", json={**ASK, "tools": tools, "tool_choice": choice})

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert "clock" in grammar.definition
    assert "dial" not in grammar.definition
