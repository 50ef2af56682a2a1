"""Answers that are checked as a whole: generated again where they fail, held back in streams."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import openai as openai_client
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette

from guidance_core.api import answer as answers
from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import FinishReason, GenerationRequest, GuidanceTimes, TokenDelta
from guidance_core.grammar.compiler import Compilation, GrammarCompiler
from guidance_core.grammar.constraint import Constraint
from tests.api.bento.test_disconnects import Connection, until
from tests.api.conftest import MODEL
from tests.api.openai.test_chat import events
from tests.api.scripted_executor import ScriptedExecutor
from tests.api.test_telemetry import Change

NOTE = "'uniqueItems' at #/ is checked on the whole answer"
SCHEMA = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "response_format": FORMAT,
    "include_guidance": True,
}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "Hi", "response_format": FORMAT, "max_tokens": 32}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}

GOOD, BAD = "[1, 2]", "[1, 1]"


@pytest.fixture(autouse=True)
def superset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every schema compiles to a grammar that leaves all of it to the check."""
    compile_ = GrammarCompiler.compile

    async def compile_superset(self: GrammarCompiler, constraint: Constraint, *, param: str | None = None) -> Any:
        loose = Constraint("json_schema", json.dumps({"type": "array"}))
        compilation = await compile_(self, loose, param=param)
        grammar = replace(compilation.grammar, route="checked", check=constraint.definition, notes=(NOTE,))
        return Compilation(grammar, compilation.seconds, compilation.cached)

    monkeypatch.setattr(GrammarCompiler, "compile", compile_superset)


Model = Callable[..., None]


@pytest.fixture
def model(executor: ScriptedExecutor, loaded: LoadedModel) -> Model:
    """Tells the executor what to answer: for each choice, its attempts in order; the last one for ever."""

    def say(*choices: Sequence[str], finish_reason: FinishReason = "stop") -> None:
        attempts = [list(texts) for texts in choices]

        def script(request: GenerationRequest, index: int) -> list[TokenDelta]:
            # Repetitions are requests for one choice, whose number is in their id.
            choice = int(request.request_id.split("-")[1]) if "-" in request.request_id else index
            left = attempts[choice % len(attempts)]
            text = left.pop(0) if len(left) > 1 else left[0]
            ids = loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids
            times = GuidanceTimes(mask_seconds=1e-5)
            deltas = [TokenDelta(index=index, token_ids=(token_id,), guidance=times) for token_id in ids]
            end = 2 if finish_reason == "stop" else None
            return [*deltas, TokenDelta(index=index, finish_reason=finish_reason, stop_token_id=end)]

        executor.script = script

    return say


async def test_a_valid_answer_is_answered_after_one_attempt(client: httpx.AsyncClient, model: Model) -> None:
    model([GOOD])
    body = (await client.post("/v1/chat/completions", json=CHAT)).json()

    assert body["choices"][0]["message"]["content"] == GOOD
    assert body["choices"][0]["finish_reason"] == "stop"
    guidance = body["usage"]["guidance"]
    assert (guidance["route"], guidance["notes"]) == ("checked", [NOTE])
    assert (guidance["choices"][0]["attempts"], guidance["choices"][0]["discarded_tokens"]) == (1, 0)


async def test_an_answer_that_fails_is_generated_again_and_counted_apart(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, model: Model
) -> None:
    model([BAD, "[3, 3, 3]", GOOD])
    body = (await client.post("/v1/chat/completions", json={**CHAT, "seed": 5})).json()

    assert body["choices"][0]["message"]["content"] == GOOD
    assert len({request.sampling.seed for request in executor.requests}) == 3
    tokens = {
        text: len(loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids) + 1
        for text in (BAD, "[3, 3, 3]", GOOD)
    }
    assert body["usage"]["completion_tokens"] == tokens[GOOD]
    details = body["usage"]["guidance"]["choices"][0]
    assert details["attempts"] == 3
    assert details["discarded_tokens"] == tokens[BAD] + tokens["[3, 3, 3]"]
    assert details["mask_us"]["total"] == pytest.approx(10 * (tokens[GOOD] - 1))


async def test_checks_and_attempts_are_counted(client: httpx.AsyncClient, model: Model) -> None:
    passed, failed = (Change("guided_checks_total", result=result) for result in ("passed", "failed"))
    choices, attempts = Change("guided_check_attempts_count"), Change("guided_check_attempts_sum")
    generated, discarded = Change("guided_completion_tokens_total"), Change("guided_discarded_tokens_total")
    model([BAD, BAD, GOOD], [GOOD])
    usage = (await client.post("/v1/chat/completions", json={**CHAT, "n": 2})).json()["usage"]

    assert (passed(), failed(), choices(), attempts()) == (2, 2, 2, 4)
    assert discarded() == sum(choice["discarded_tokens"] for choice in usage["guidance"]["choices"]) > 0
    assert generated() == usage["completion_tokens"] + discarded()


async def test_what_still_fails_is_a_422_that_says_why_and_is_not_repeated_by_the_client(
    client: httpx.AsyncClient, executor: ScriptedExecutor, model: Model
) -> None:
    model([BAD])
    openai = AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=client, max_retries=2)
    with pytest.raises(openai_client.UnprocessableEntityError, match="non-unique") as failure:
        await openai.chat.completions.create(
            model=MODEL, messages=CHAT["messages"], extra_body={"response_format": FORMAT}
        )

    assert failure.value.code == "answer_rejected"
    assert failure.value.type == "invalid_request_error"
    assert "8 answers" in failure.value.message
    assert len(executor.requests) == 8
    assert not executor.running


async def test_a_request_may_allow_fewer_attempts_but_not_more_than_configured(
    client: httpx.AsyncClient, executor: ScriptedExecutor, model: Model
) -> None:
    model([BAD, BAD, GOOD])
    few = await client.post("/v1/chat/completions", json={**CHAT, "check_attempts": 2})
    assert (few.status_code, len(executor.requests)) == (422, 2)

    many = await client.post("/v1/chat/completions", json={**CHAT, "check_attempts": 9})
    assert (many.status_code, many.json()["error"]["param"]) == (400, "check_attempts")


class TestTokenBudget:
    @pytest.fixture(autouse=True)
    def few_tokens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GUIDED_TRTLLM_GUIDANCE__CHECK_TOKENS", "10")

    async def test_a_choice_gets_no_further_attempt_when_its_tokens_are_spent(
        self, client: httpx.AsyncClient, executor: ScriptedExecutor, model: Model
    ) -> None:
        model([BAD])
        response = await client.post("/v1/chat/completions", json=CHAT)

        assert response.status_code == 422
        assert len(executor.requests) == 2


async def test_only_the_choices_that_fail_are_generated_again(
    client: httpx.AsyncClient, executor: ScriptedExecutor, model: Model
) -> None:
    model([GOOD], [BAD, "[7]"], [BAD, BAD, "[]"])
    body = (await client.post("/v1/chat/completions", json={**CHAT, "n": 3})).json()

    assert [choice["message"]["content"] for choice in body["choices"]] == [GOOD, "[7]", "[]"]
    assert [choice["attempts"] for choice in body["usage"]["guidance"]["choices"]] == [1, 2, 3]
    assert [request.sampling.n for request in executor.requests] == [3, 1, 1, 1]


async def test_choices_of_several_prompts_are_checked_each_by_itself(client: httpx.AsyncClient, model: Model) -> None:
    model([BAD, GOOD, BAD, GOOD], [GOOD])
    body = (await client.post("/v1/completions", json={**COMPLETION, "prompt": ["a", "b"], "n": 2})).json()

    assert [choice["text"] for choice in body["choices"]] == [GOOD] * 4
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]


async def test_what_is_cut_off_promises_nothing_and_is_not_checked(
    client: httpx.AsyncClient, executor: ScriptedExecutor, model: Model
) -> None:
    model(["[1, 1"], finish_reason="length")
    body = (await client.post("/v1/chat/completions", json=CHAT)).json()

    assert body["choices"][0]["message"]["content"] == "[1, 1"
    assert body["choices"][0]["finish_reason"] == "length"
    assert len(executor.requests) == 1


async def test_a_stop_string_at_an_end_of_the_grammar_does_not_escape_the_check(
    client: httpx.AsyncClient, executor: ScriptedExecutor, model: Model
) -> None:
    model([BAD + "!!", GOOD + "!!"])
    body = (await client.post("/v1/chat/completions", json={**CHAT, "stop": "!!"})).json()

    assert body["choices"][0]["message"]["content"] == GOOD
    assert len(executor.requests) == 2


async def test_answers_are_checked_in_threads_that_nothing_else_waits_for(
    client: httpx.AsyncClient, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked_in: list[threading.Thread] = []

    def satisfies(*_: object) -> None:
        checked_in.append(threading.current_thread())

    monkeypatch.setattr(answers, "satisfies", satisfies)
    model([GOOD])
    await client.post("/v1/chat/completions", json=CHAT)

    assert len(checked_in) == 1
    assert checked_in[0].name.startswith("answer-check")


async def test_logprobs_are_those_of_the_answer(client: httpx.AsyncClient, model: Model) -> None:
    model([BAD, GOOD])
    body = (await client.post("/v1/chat/completions", json={**CHAT, "logprobs": True})).json()

    assert body["choices"][0]["logprobs"] == {"content": [], "refusal": None}


class TestStreams:
    @pytest.fixture(autouse=True)
    def eager_comments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GUIDED_TRTLLM_GUIDANCE__HELD_STREAM_COMMENTS", "0.01")

    async def test_a_stream_gives_its_role_at_once_and_its_text_once_it_is_checked(
        self, client: httpx.AsyncClient, model: Model
    ) -> None:
        model([BAD, GOOD])
        response = await client.post("/v1/chat/completions", json={**CHAT, **STREAM})

        role, text, end, usage, done = events(response.text)
        assert role["choices"][0]["delta"]["role"] == "assistant"
        assert text["choices"][0]["delta"] == {"content": GOOD}
        assert end["choices"][0]["finish_reason"] == "stop"
        assert usage["usage"]["guidance"]["choices"][0]["attempts"] == 2
        assert done == "[DONE]"
        assert BAD not in response.text

    async def test_comments_keep_the_connection_open_meanwhile_and_clients_do_not_see_them(
        self, openai: AsyncOpenAI, client: httpx.AsyncClient, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model([GOOD])
        check = answers._check

        async def slow_check(*arguments: Any) -> str | None:
            await asyncio.sleep(0.05)
            return await check(*arguments)

        monkeypatch.setattr(answers, "_check", slow_check)
        raw = (await client.post("/v1/chat/completions", json={**CHAT, **STREAM})).text
        assert raw.index('"role"') < raw.index("\n\n: checking\n\n") < raw.index('"content":"[1')

        chat: AsyncIterator[Any] = await openai.chat.completions.create(
            model=MODEL, messages=CHAT["messages"], stream=True, extra_body={"response_format": FORMAT}
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in chat]) == GOOD
        completion: AsyncIterator[Any] = await openai.completions.create(
            model=MODEL, prompt="Hi", stream=True, extra_body={"response_format": FORMAT}
        )
        assert "".join([chunk.choices[0].text async for chunk in completion]) == GOOD

    async def test_what_still_fails_is_an_error_event_and_no_done(
        self, openai: AsyncOpenAI, client: httpx.AsyncClient, model: Model
    ) -> None:
        model([BAD])
        body = {**CHAT, **STREAM, "check_attempts": 2}
        *_, last = events((await client.post("/v1/chat/completions", json=body)).text)

        assert last["error"]["code"] == "answer_rejected"
        stream: AsyncIterator[Any] = await openai.chat.completions.create(
            model=MODEL, messages=CHAT["messages"], stream=True, extra_body={"response_format": FORMAT}
        )
        with pytest.raises(openai_client.APIError, match="not valid against the schema"):
            _ = [chunk async for chunk in stream]

    @pytest.mark.parametrize(
        ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", {**COMPLETION, "prompt": ["a", "b"]})]
    )
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_client_that_goes_away_in_the_second_attempt_stops_it(
        self, app: Starlette, executor: ScriptedExecutor, model: Model, path: str, body: dict[str, Any], stream: bool
    ) -> None:
        model([BAD])
        script = executor.script

        def pausing(request: GenerationRequest, index: int) -> Any:
            if "-" in request.request_id:
                executor.pause_at = 1
            return script(request, index)

        executor.script = pausing
        connection = Connection(app, path, {**body, **(STREAM if stream else {})})
        await until(lambda: executor.pause_at is not None)
        assert executor.running

        connection.go_away()
        await connection.task

        assert not executor.running


class TestRefusedStreams:
    @pytest.fixture(autouse=True)
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GUIDED_TRTLLM_GUIDANCE__CHECKED_STREAMS", "refuse")

    async def test_by_configuration_such_a_stream_is_a_400_that_says_what_cannot_be_streamed(
        self, client: httpx.AsyncClient, executor: ScriptedExecutor, model: Model
    ) -> None:
        model([GOOD])
        refused = await client.post("/v1/chat/completions", json={**CHAT, **STREAM})
        whole = await client.post("/v1/chat/completions", json=CHAT)

        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "stream"
        assert NOTE in refused.json()["error"]["message"]
        assert whole.status_code == 200
        assert len(executor.requests) == 1


async def test_token_ids_are_those_of_the_attempts_that_passed(
    openai: AsyncOpenAI, loaded: LoadedModel, model: Model
) -> None:
    passed = [[*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids, 2] for text in (GOOD, "[7]")]
    extra_body = {"return_token_ids": True, "response_format": FORMAT}
    asked: dict[str, Any] = {"model": MODEL, "prompt": "Hi", "max_tokens": 32, "n": 2, "extra_body": extra_body}
    model([BAD, GOOD], ["[7]"])
    completion = await openai.completions.create(**asked)
    assert [(choice.model_extra or {})["token_ids"] for choice in completion.choices] == passed
    model([BAD, GOOD], ["[7]"])
    streamed: list[list[int]] = [[], []]
    async for chunk in await openai.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += (chunk.choices[0].model_extra or {})["token_ids"]
    assert streamed == passed
