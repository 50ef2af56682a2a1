"""Models that think first, on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from guidance_core.api.served_model import LoadedModel
from guidance_core.reasoning import ReasoningMarkers, find_markers
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "2 + 2?"}]}
INTEGER = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}


@pytest.fixture
def markers(loaded: LoadedModel) -> ReasoningMarkers:
    """The default model, as if it thought between two special tokens that it has."""
    tokenizer = loaded.prompts.tokenizer
    begin, end = "<repo_name>", "<reponame>"
    special = tuple(sorted(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special))
    markers = ReasoningMarkers(begin, end, tokenizer.token_to_id(begin), tokenizer.token_to_id(end), special)
    object.__setattr__(loaded, "reasoning", markers)  # frozen for all but these tests
    return markers


@pytest.fixture
def says(executor: ScriptedExecutor, loaded: LoadedModel) -> Any:
    def say(text: str, **options: Any) -> int:
        ids = loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids
        executor.script = answer(*ids, **options)
        return len(ids)

    return say


async def test_thoughts_are_apart_from_content(openai: AsyncOpenAI, markers: ReasoningMarkers, says: Any) -> None:
    says(f"{markers.begin}Two and two.{markers.end}\n\nFour.")
    completion = await openai.chat.completions.create(**ASK)
    message = completion.choices[0].message
    assert message.content == "Four."
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "Two and two."
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    thought = completion.usage.completion_tokens_details.reasoning_tokens
    assert thought == says(f"{markers.begin}Two and two.{markers.end}")


async def test_thoughts_are_streamed_apart(openai: AsyncOpenAI, markers: ReasoningMarkers, says: Any) -> None:
    says(f"{markers.begin}Two and two.{markers.end}\n\nFour.")
    chunks = [chunk async for chunk in await openai.chat.completions.create(**ASK, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    thoughts = [(delta.model_extra or {}).get("reasoning_content") for delta in deltas]
    assert "".join(thought or "" for thought in thoughts) == "Two and two."
    assert len([thought for thought in thoughts if thought]) > 1
    assert "".join(delta.content or "" for delta in deltas) == "Four."


async def test_the_constraint_is_for_the_answer_after_the_thoughts(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, markers: ReasoningMarkers, says: Any
) -> None:
    says(f"{markers.begin}Two and two.{markers.end}4")
    response = (await client.post("/v1/chat/completions", json={**ASK, "response_format": INTEGER})).json()
    assert response["choices"][0]["message"]["content"] == "4"
    grammar = executor.requests[-1].grammar
    assert grammar is not None
    assert grammar.kind == "reasoning"
    assert loaded.grammars.accepts(grammar, b"4")
    assert not loaded.grammars.accepts(grammar, b"four")


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_may_spell_the_marker_that_ends_them(
    openai: AsyncOpenAI,
    executor: ScriptedExecutor,
    loaded: LoadedModel,
    markers: ReasoningMarkers,
    stream: bool,
) -> None:
    def ids(text: str) -> list[int]:
        return loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids

    spelled = [*ids(markers.end[:1]), *ids(markers.end[1:])]
    assert markers.end_id not in spelled
    executor.script = answer(markers.begin_id, *ids("Is it"), *spelled, *ids("five?"), markers.end_id, *ids("4"))
    ask = {**ASK, "response_format": INTEGER, "stream": stream}
    if stream:
        deltas = [chunk.choices[0].delta async for chunk in await openai.chat.completions.create(**ask)]
        thoughts = "".join((delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas)
        content = "".join(delta.content or "" for delta in deltas)
    else:
        message = (await openai.chat.completions.create(**ask)).choices[0].message
        thoughts, content = (message.model_extra or {})["reasoning_content"], message.content
    assert (thoughts, content) == (f"Is it{markers.end}five?", "4")


async def test_line_breaks_stay_where_the_constraint_asks_for_them(
    openai: AsyncOpenAI, markers: ReasoningMarkers, says: Any
) -> None:
    says(f"{markers.begin}Hm.{markers.end}\n\nFour.")
    completion = await openai.chat.completions.create(**ASK, extra_body={"guided_regex": r"\n\n[A-Z][a-z]+\."})
    assert completion.choices[0].message.content == "\n\nFour."


async def test_a_superset_is_checked_without_the_thoughts(
    client: httpx.AsyncClient, markers: ReasoningMarkers, says: Any
) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    unique = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    says(f"{markers.begin}Hm.{markers.end}[1, 2]")
    response = await client.post("/v1/chat/completions", json={**ASK, "response_format": unique})
    assert response.json()["choices"][0]["message"]["content"] == "[1, 2]"
    says(f"{markers.begin}Hm.{markers.end}[1, 1]")
    response = await client.post("/v1/chat/completions", json={**ASK, "response_format": unique, "check_attempts": 1})
    assert response.status_code == 422


@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        ({"reasoning_effort": "low"}, "{0,512}"),
        ({"max_thinking_tokens": 20}, "{0,20}"),
        ({"min_thinking_tokens": 5, "reasoning_effort": "minimal"}, "{5,128}"),
        ({"min_thinking_tokens": 5}, "{5,}"),
    ],
)
async def test_bounds_are_held_by_the_grammar(
    client: httpx.AsyncClient,
    executor: ScriptedExecutor,
    markers: ReasoningMarkers,
    options: dict[str, Any],
    bounds: str,
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, **options})
    assert response.status_code == 200, response.text
    grammar = executor.requests[-1].grammar
    assert grammar is not None
    assert f"<[{markers.begin_id}]>" in grammar.source
    assert bounds in grammar.source


async def test_without_bounds_and_constraint_nothing_is_enforced(
    client: httpx.AsyncClient, executor: ScriptedExecutor, markers: ReasoningMarkers
) -> None:
    await client.post("/v1/chat/completions", json=ASK)
    assert executor.requests[-1].grammar is None


async def test_a_prompt_that_begins_the_thoughts_is_noticed(
    openai: AsyncOpenAI, markers: ReasoningMarkers, says: Any, executor: ScriptedExecutor
) -> None:
    says(f"Two and two.{markers.end}Four.")
    messages = [*ASK["messages"], {"role": "assistant", "content": f"Well. {markers.begin}"}]
    ask = {**ASK, "messages": messages, "reasoning_effort": "low"}
    completion = await openai.chat.completions.create(**ask, extra_body={"continue_final_message": True})
    message = completion.choices[0].message
    assert (message.content, (message.model_extra or {})["reasoning_content"]) == ("Four.", "Two and two.")
    grammar = executor.requests[-1].grammar
    assert grammar is not None
    assert f"<[{markers.begin_id}]>" not in grammar.source


async def test_a_model_that_does_not_think_refuses_bounds(client: httpx.AsyncClient) -> None:
    for field, value in (("reasoning_effort", "high"), ("min_thinking_tokens", 1), ("max_thinking_tokens", 1)):
        response = await client.post("/v1/chat/completions", json={**ASK, field: value})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == field
    assert (await client.post("/v1/chat/completions", json={**ASK, "reasoning_effort": "none"})).status_code == 200


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"min_thinking_tokens": 9, "max_thinking_tokens": 8}, "min_thinking_tokens"),
        ({"min_thinking_tokens": 200, "reasoning_effort": "minimal"}, "min_thinking_tokens"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens"),
    ],
)
async def test_bounds_that_cannot_be_are_refused(
    client: httpx.AsyncClient, markers: ReasoningMarkers, options: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, **options})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_markers_are_found_where_template_and_vocabulary_have_them(loaded: LoadedModel) -> None:
    tokenizer = loaded.prompts.tokenizer
    assert find_markers(tokenizer, "{{ '<think>' }}{{ '</think>' }}") is None  # no such tokens in this vocabulary
    from tokenizers import AddedToken, Tokenizer

    thinker = Tokenizer.from_str(tokenizer.to_str())
    thinker.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    found = find_markers(thinker, "{{ '<think>' }}{{ '</think>' }}")
    assert found is not None
    assert found.begin_id == thinker.token_to_id("<think>")
    assert find_markers(thinker, "{{ messages }}") is None
    assert find_markers(thinker, None) is None
