"""Messages with tools that are checked as a whole: each call's arguments, or the answer where there is no call."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import GenerationRequest, TokenDelta
from guidance_core.prompt.tools import ToolUse
from guidance_core.reasoning import ReasoningMarkers
from guidance_core.tool_format import FORMATS, ToolFormatName
from tests.api.conftest import MODEL
from tests.api.openai.test_chat import events
from tests.api.scripted_executor import ScriptedExecutor, answer
from tests.api.test_telemetry import Change

UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
PARAMETERS = {"type": "object", "properties": {"ids": UNIQUE}, "required": ["ids"], "additionalProperties": False}
PICK: dict[str, Any] = {"type": "function", "function": {"name": "pick", "parameters": PARAMETERS}}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
UNIQUE_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": UNIQUE}}
ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Pick two."}],
    "tools": [TIME, PICK],
    "include_guidance": True,
}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
GOOD, BAD = ("pick", {"ids": [1, 2]}), ("pick", {"ids": [1, 1]})
NOW: tuple[str, dict[str, Any]] = ("get_time", {})

Says = Callable[..., None]


@pytest.fixture
def says(executor: ScriptedExecutor, loaded: LoadedModel) -> Says:
    """Tells the executor what to answer: for each choice its attempts, the last for ever; a list is calls."""

    def say(*choices: Sequence[str | list[tuple[str, Any]]]) -> None:
        attempts = [[_written(loaded, text) for text in texts] for texts in choices]

        def script(request: GenerationRequest, index: int) -> Sequence[TokenDelta | Exception]:
            choice = int(request.request_id.split("-")[1]) if "-" in request.request_id else index
            left = attempts[choice]
            text = left.pop(0) if len(left) > 1 else left[0]
            return answer(*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids)(request, index)

        executor.script = script

    return say


def _written(loaded: LoadedModel, said: str | list[tuple[str, Any]]) -> str:
    if isinstance(said, str):
        return said
    tool_format = loaded.tool_use.format
    calls = [
        tool_format.opener + name + tool_format.middle + json.dumps(arguments) + tool_format.closer
        for name, arguments in said
    ]
    return tool_format.begin + tool_format.between.join(calls) + tool_format.end


def speak(loaded: LoadedModel, tool_format: ToolFormatName) -> None:
    object.__setattr__(loaded, "tool_use", ToolUse(loaded.prompts, FORMATS[tool_format]))  # frozen for all but tests


def called(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]


@pytest.mark.parametrize("tool_format", FORMATS)
@pytest.mark.parametrize(
    ("choice", "response_format"),
    [("auto", None), ("auto", UNIQUE_FORMAT), ("required", None), ("pick", UNIQUE_FORMAT)],
)
async def test_calls_whose_arguments_fail_are_generated_again(
    client: httpx.AsyncClient,
    loaded: LoadedModel,
    says: Says,
    tool_format: ToolFormatName,
    choice: str,
    response_format: Any,
) -> None:
    speak(loaded, tool_format)
    says([[BAD], [GOOD]])
    tool_choice = {"type": "function", "function": {"name": "pick"}} if choice == "pick" else choice
    body = {**ASK, "tool_choice": tool_choice, "response_format": response_format}
    response = (await client.post("/v1/chat/completions", json=body)).json()

    assert called(response["choices"][0]["message"]) == [GOOD]
    assert response["choices"][0]["finish_reason"] == "tool_calls"
    guidance = response["usage"]["guidance"]
    assert (guidance["kind"], guidance["route"]) == ("tools", "checked")
    assert guidance["choices"][0]["attempts"] == 2
    assert any("The parameters of 'pick': 'uniqueItems' at #/properties/ids" in note for note in guidance["notes"])


async def test_every_call_of_a_message_is_checked(client: httpx.AsyncClient, says: Says) -> None:
    says([[GOOD, NOW, BAD], [NOW, GOOD, GOOD]])
    response = (await client.post("/v1/chat/completions", json=ASK)).json()
    assert called(response["choices"][0]["message"]) == [NOW, GOOD, GOOD]


async def test_text_without_calls_needs_no_check(
    client: httpx.AsyncClient, executor: ScriptedExecutor, says: Says
) -> None:
    says(["Which two?"])
    response = (await client.post("/v1/chat/completions", json=ASK)).json()
    assert response["choices"][0]["message"]["content"] == "Which two?"
    assert len(executor.requests) == 1


@pytest.mark.parametrize("tool_format", FORMATS)
async def test_an_answer_beside_tools_is_checked_against_its_own_schema(
    client: httpx.AsyncClient, loaded: LoadedModel, says: Says, tool_format: ToolFormatName
) -> None:
    speak(loaded, tool_format)
    says(["[1, 1]", "[1, 2]"], [[NOW]])
    route = Change("guided_constraints_total", kind="tools", route="checked")
    body = {**ASK, "tools": [TIME], "response_format": UNIQUE_FORMAT, "n": 2}
    response = (await client.post("/v1/chat/completions", json=body)).json()

    first, second = response["choices"]
    assert first["message"]["content"] == "[1, 2]"
    assert called(second["message"]) == [NOW]
    assert [choice["attempts"] for choice in response["usage"]["guidance"]["choices"]] == [2, 1]
    assert route() == 1


async def test_what_still_fails_is_an_error_that_names_the_function_and_the_place(
    client: httpx.AsyncClient, executor: ScriptedExecutor, says: Says
) -> None:
    says([[BAD]])
    response = await client.post("/v1/chat/completions", json={**ASK, "check_attempts": 3})
    error = response.json()["error"]
    assert (response.status_code, error["code"], len(executor.requests)) == (422, "answer_rejected", 3)
    assert "in the arguments of 'pick': at /ids: " in error["message"]
    *_, last = events((await client.post("/v1/chat/completions", json={**ASK, **STREAM})).text)
    assert last["error"]["code"] == "answer_rejected"


async def test_a_stream_of_calls_is_held_back_until_they_are_checked(client: httpx.AsyncClient, says: Says) -> None:
    says([[BAD], [GOOD, NOW]])
    response = await client.post("/v1/chat/completions", json={**ASK, **STREAM})
    role, *deltas, end, usage, done = events(response.text)
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert "[1, 1]" not in response.text
    calls = [call for delta in deltas for call in delta["choices"][0]["delta"]["tool_calls"]]
    assert [call["function"]["name"] for call in calls if "id" in call] == ["pick", "get_time"]
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["usage"]["guidance"]["choices"][0]["attempts"] == 2
    assert done == "[DONE]"


async def test_thoughts_come_before_what_is_checked(
    client: httpx.AsyncClient, loaded: LoadedModel, says: Says, markers: ReasoningMarkers
) -> None:
    thoughts = f"{markers.begin}As {_written(loaded, [BAD])}?{markers.end}\n"
    says([thoughts + _written(loaded, [BAD]), thoughts + _written(loaded, [GOOD])])
    response = (await client.post("/v1/chat/completions", json=ASK)).json()
    message = response["choices"][0]["message"]
    assert called(message) == [GOOD]
    assert "[1, 1]" in message["reasoning_content"]
    assert response["usage"]["guidance"]["choices"][0]["attempts"] == 2


@pytest.fixture
def markers(loaded: LoadedModel) -> ReasoningMarkers:
    """The default model, as if it thought between two special tokens that it has."""
    tokenizer = loaded.prompts.tokenizer
    begin, end = "<repo_name>", "<reponame>"
    special = tuple(sorted(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special))
    markers = ReasoningMarkers(begin, end, tokenizer.token_to_id(begin), tokenizer.token_to_id(end), special)
    object.__setattr__(loaded, "reasoning", markers)  # frozen for all but these tests
    return markers


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_are_checked_likewise(client: httpx.AsyncClient, says: Says, stream: bool) -> None:
    says([[BAD], [GOOD]])
    tool = {"type": "function", **PICK["function"]}
    body = {"model": MODEL, "input": "Pick two.", "tools": [tool], "stream": stream}
    response = await client.post("/v1/responses", json=body)
    assert "[1, 1]" not in response.text
    if stream:
        lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: {")]
        [done] = [event for event in map(json.loads, lines) if event["type"] == "response.completed"]
        [call] = done["response"]["output"]
    else:
        [call] = response.json()["output"]
    assert (call["name"], json.loads(call["arguments"])) == GOOD


@pytest.mark.parametrize(
    ("change", "param", "place"),
    [
        (
            {"tools": [TIME, {"type": "function", "function": {**PICK["function"], "strict": "exact"}}]},
            "tools[1].function.parameters",
            "'uniqueItems' at #/properties/ids",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a/b": 1}}}}]},
            "tools[0].function.parameters",
            "at #/properties/a~1b",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": UNIQUE, "strict": "exact"}}},
            "response_format.json_schema.schema",
            "'uniqueItems' at #/",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"a": 1}}}}},
            "response_format.json_schema.schema",
            "at #/properties/a",
        ),
    ],
)
@pytest.mark.parametrize("tool_format", ["hermes", "json"])
async def test_refusals_point_to_what_the_client_wrote(
    client: httpx.AsyncClient,
    loaded: LoadedModel,
    tool_format: ToolFormatName,
    change: dict[str, Any],
    param: str,
    place: str,
) -> None:
    speak(loaded, tool_format)
    response = await client.post("/v1/chat/completions", json={**ASK, **change})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_grammar", param)
    assert place in error["message"]
    assert "$defs" not in error["message"]


async def test_the_responses_api_names_its_own_fields(client: httpx.AsyncClient) -> None:
    tool = {"type": "function", **PICK["function"], "strict": "exact"}
    response = await client.post("/v1/responses", json={"model": MODEL, "input": "Hi", "tools": [tool]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools[0].parameters")


class TestRefusedStreams:
    @pytest.fixture(autouse=True)
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GUIDED_TRTLLM_GUIDANCE__CHECKED_STREAMS", "refuse")

    async def test_by_configuration_such_a_stream_is_a_400(self, client: httpx.AsyncClient, says: Says) -> None:
        says([[GOOD]])
        refused = await client.post("/v1/chat/completions", json={**ASK, **STREAM})
        plain = await client.post("/v1/chat/completions", json={**ASK, **STREAM, "tools": [TIME]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")
        assert "The parameters of 'pick'" in refused.json()["error"]["message"]
        assert plain.status_code == 200
