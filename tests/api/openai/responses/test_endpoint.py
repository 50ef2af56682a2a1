"""The Responses API over the real application and OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel

from guidance_core.api.served_model import LoadedModel
from guidance_core.errors import ContextLengthExceeded, GenerationFailed
from guidance_core.generation import GenerationRequest, TokenDelta
from guidance_core.reasoning import ReasoningMarkers
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

ASK: dict[str, Any] = {"model": MODEL, "input": "Hi"}
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
IMAGE = {"type": "input_image", "image_url": "data:,"}
CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}
INCLUDE: Any = ["reasoning.encrypted_content"]
CALLS = '{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Rome"}}]}'


@pytest.fixture
def says(executor: ScriptedExecutor, loaded: LoadedModel) -> Any:
    def say(text: str, **options: Any) -> None:
        executor.script = answer(*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids, **options)

    return say


async def test_an_answer_is_a_message(openai: AsyncOpenAI, hello: str) -> None:
    response = await openai.responses.create(**ASK, instructions="Be kind.", metadata={"a": "b"}, temperature=0.5)
    assert response.output_text == hello
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert (response.instructions, response.metadata, response.temperature) == ("Be kind.", {"a": "b"}, 0.5)
    [message] = response.output
    assert message.type == "message"
    assert message.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == 6
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert response.usage.total_tokens == response.usage.input_tokens + 6


async def test_events_come_in_the_official_order(openai: AsyncOpenAI, hello: str) -> None:
    events = [event async for event in await openai.responses.create(**ASK, stream=True)]
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == hello
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == hello


async def test_the_clients_own_accumulator_understands_the_stream(openai: AsyncOpenAI, says: Any) -> None:
    says(CALLS)
    async with openai.responses.stream(**ASK, tools=[WEATHER]) as stream:
        response = await stream.get_final_response()
    [call] = response.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome"})


async def test_calls_are_items(openai: AsyncOpenAI, says: Any) -> None:
    says(CALLS)
    response = await openai.responses.create(**ASK, tools=[WEATHER])
    [call] = response.output
    assert call.type == "function_call"
    assert call.call_id.startswith("call_")
    says(CALLS)
    events = [event async for event in await openai.responses.create(**ASK, tools=[WEATHER], stream=True)]
    kinds = [event.type for event in events if event.type != "response.function_call_arguments.delta"]
    assert kinds[2:] == [
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


class Person(BaseModel):
    name: str
    age: int


async def test_a_schema_is_parsed_by_the_client(
    openai: AsyncOpenAI, says: Any, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    says('{"name": "Ada", "age": 36}')
    response = await openai.responses.parse(**ASK, text_format=Person)
    assert response.output_parsed == Person(name="Ada", age=36)
    grammar = executor.requests[-1].grammar
    assert grammar is not None
    assert not loaded.grammars.accepts(grammar, b'{"name": "Ada"}')


async def test_an_answer_that_is_cut_off_is_incomplete(openai: AsyncOpenAI, says: Any) -> None:
    says("Hello there", finish_reason="length")
    response = await openai.responses.create(**ASK)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    says("Hello there", finish_reason="length")
    events = [event async for event in await openai.responses.create(**ASK, stream=True)]
    assert events[-1].type == "response.incomplete"


async def test_log_probabilities_on_request(openai: AsyncOpenAI, hello: str) -> None:
    response = await openai.responses.create(**ASK, include=["message.output_text.logprobs"], top_logprobs=2)
    [message] = response.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert "".join(entry.token for entry in part.logprobs) == hello
    assert len(part.logprobs[0].top_logprobs) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_what_guidance_did_is_told_on_request(client: httpx.AsyncClient, says: Any, stream: bool) -> None:
    says('{"a": 1}')
    body = {
        **ASK,
        "stream": stream,
        "include_guidance": True,
        "llg_log_level": "json",
        "return_expanded_prompt": True,
        "text": {"format": {"type": "lark_grammar", "lark_grammar": 'start: "{\\"a\\": " n "}"\nn[capture]: /[0-9]/'}},
    }
    answered = await client.post("/v1/responses", json=body)
    assert answered.status_code == 200, answered.text
    if stream:
        event = json.loads(answered.text.rstrip().rpartition("\ndata: ")[2])
        assert event["type"] == "response.completed"
        response = event["response"]
    else:
        response = answered.json()
    guidance = response["usage"]["guidance"]
    assert (guidance["kind"], guidance["route"], len(guidance["choices"])) == ("lark", "exact", 1)
    [capture] = [line for line in response["llg_logs"].splitlines() if '"object":"capture"' in line]
    assert '"name":"n"' in capture
    assert "Hi" in response["expanded_prompt"]
    plain = (await client.post("/v1/responses", json={**ASK, "include_guidance": True})).json()
    assert plain["usage"]["guidance"] is None
    assert "llg_logs" not in plain


async def test_what_chat_knows_of_sampling_and_guidance_is_passed_on(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    fields = {
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "repetition_penalty": 1.1, "logit_bias": {"17": -100},
        "top_k": 40, "min_p": 0.05, "typical_p": 0.7, "min_tokens": 3, "stop_token_ids": [5], "ignore_eos": True,
        "bad_words": ["x"], "priority": 2, "truncate_prompt_tokens": 4, "seed": 9, "stop": "y",
    }  # fmt: skip
    answered = await client.post("/v1/responses", json={**ASK, **fields})
    assert answered.status_code == 200, answered.text
    await client.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}
    )
    here, chat = executor.requests
    assert here.sampling == chat.sampling
    assert (here.prompt_ids, here.priority, here.stop) == (chat.prompt_ids, 2, ("y",))
    assert here.sampling.typical_p == 0.7


async def test_a_service_makes_no_more_attempts_than_it_is_set_to(client: httpx.AsyncClient) -> None:
    body = {**ASK, "check_attempts": 1000, "text": {"format": {"type": "json_object"}}}
    refused = await client.post("/v1/responses", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "check_attempts"


async def test_thoughts_are_an_item_of_their_own(openai: AsyncOpenAI, loaded: LoadedModel, says: Any) -> None:
    tokenizer = loaded.prompts.tokenizer
    begin, end = "<repo_name>", "<reponame>"
    markers = ReasoningMarkers(begin, end, tokenizer.token_to_id(begin), tokenizer.token_to_id(end), ())
    object.__setattr__(loaded, "reasoning", markers)  # frozen for all but this test
    says(f"{begin}Hm.{end}Four.")
    thoughts, message = (await openai.responses.create(**ASK, reasoning={"effort": "low"})).output
    assert thoughts.type == "reasoning"
    assert thoughts.content is not None
    assert thoughts.content[0].text == "Hm."
    assert message.type == "message"
    says(f"{begin}Hm.{end}Four.")
    kinds = [event.type async for event in await openai.responses.create(**ASK, stream=True)]
    assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")


async def test_items_go_back_as_they_came(
    openai: AsyncOpenAI, says: Any, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    says(CALLS)
    first = await openai.responses.create(**ASK, tools=[WEATHER])
    [call] = first.output
    assert call.type == "function_call"
    says("Sunny.")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "25 degrees"}
    second = await openai.responses.create(
        model=MODEL, input=[{"role": "user", "content": "Weather?"}, call.model_dump(), result], tools=[WEATHER]
    )
    assert second.output_text == "Sunny."
    prompt = loaded.prompts.tokenizer.decode(executor.requests[-1].prompt_ids)
    assert '{"name": "get_weather", "arguments": {"city": "Rome"}}' in prompt
    assert "25 degrees" in prompt
    [message] = second.output
    third = await openai.responses.create(model=MODEL, input=[message.model_dump(), {"role": "user", "content": "Ok"}])
    assert third.status == "completed"


async def test_a_whole_output_goes_back_as_it_came(
    openai: AsyncOpenAI, says: Any, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    tokenizer = loaded.prompts.tokenizer
    begin, end = "<repo_name>", "<reponame>"
    markers = ReasoningMarkers(begin, end, tokenizer.token_to_id(begin), tokenizer.token_to_id(end), ())
    object.__setattr__(loaded, "reasoning", markers)  # frozen for all but this test
    said: list[Any] = [{"role": "user", "content": "Weather?"}]
    says(f"{begin}Hm.{end}{CALLS}")
    first = await openai.responses.create(model=MODEL, input=said, tools=[WEATHER], include=INCLUDE)
    said += first.output
    said += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "25 degrees"}
        for item in first.output
        if item.type == "function_call"
    ]
    says(f"{begin}Ah.{end}Sunny.")
    async with openai.responses.stream(model=MODEL, input=said, tools=[WEATHER]) as stream:
        second = await stream.get_final_response()
    said += [*second.output, {"role": "user", "content": "Thanks."}]
    says(f"{begin}Hm, hm", finish_reason="length")
    third = await openai.responses.create(model=MODEL, input=said)
    assert [item.type for item in third.output] == ["reasoning"]
    said += [*third.output, {"role": "user", "content": "Well?"}]
    says("Fine.")
    fourth = await openai.responses.create(model=MODEL, input=said)

    assert [item.type for item in (*first.output, *second.output)] == [
        "reasoning", "function_call", "reasoning", "message",
    ]  # fmt: skip
    assert fourth.output_text == "Fine."
    prompt = tokenizer.decode(executor.requests[-1].prompt_ids)
    for text in ('{"city": "Rome"}', "25 degrees", "Sunny.", "Thanks.", "Well?"):
        assert text in prompt


async def test_a_refusal_of_the_assistant_is_read_as_its_text(client: httpx.AsyncClient) -> None:
    refused = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    body = {**ASK, "input": [USER, refused, USER], "return_expanded_prompt": True}

    assert "assistant\nNo.<" in (await client.post("/v1/responses", json=body)).json()["expanded_prompt"]


async def test_a_limit_on_the_answer_goes_by_its_own_name(
    openai: AsyncOpenAI, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(request: GenerationRequest) -> None:
        raise ContextLengthExceeded("Too long: lower max_tokens to 5.", param="max_tokens")

    monkeypatch.setattr(executor, "check", check)
    with pytest.raises(BadRequestError, match="lower max_output_tokens to 5") as refused:
        await openai.responses.create(**ASK)
    assert refused.value.param == "max_output_tokens"


async def test_what_asks_for_nothing_is_accepted_and_told(openai: AsyncOpenAI, hello: str) -> None:
    response = await openai.responses.create(
        **ASK, store=False, background=False, service_tier="auto", max_tool_calls=3, parallel_tool_calls=True,
        truncation="disabled", metadata={"a": "b"}, safety_identifier="x", prompt_cache_key="y", user="z",
        top_logprobs=0, text={"verbosity": "medium"}, include=INCLUDE,
    )  # fmt: skip

    assert response.output_text == hello
    assert (response.max_tool_calls, response.truncation, response.metadata) == (3, "disabled", {"a": "b"})
    [message] = response.output
    assert message.type == "message"
    assert message.content[0].type == "output_text"
    assert not message.content[0].logprobs


async def test_a_failure_in_mid_stream_is_the_last_event(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    [token] = loaded.prompts.tokenizer.encode("Hello", add_special_tokens=False).ids
    executor.script = lambda request, index: [
        TokenDelta(index=index, token_ids=(token,)),
        GenerationFailed("It broke."),
    ]
    events = [event async for event in await openai.responses.create(**ASK, stream=True)]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "It broke." in last.response.error.message
    [message] = last.response.output
    assert (message.type, message.status) == ("message", "incomplete")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": "Hi", "annotations": ["a"]}]}]},
            "input[0].content[0].annotations",
        ),
        ({"stream": True, "stream_options": {"include_obfuscation": 0}}, "stream_options.include_obfuscation"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"truncation": "middle"}, "truncation"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**WEATHER, "parameters": {"type": "array"}}]}, "tools[0].parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": [USER, {"role": "user", "content": [IMAGE]}]}, "input[1].content[0].type"),
        ({"input": [CALLED, RESULT, {"role": "assistant", "content": [IMAGE]}]}, "input[2]"),
        ({"input": [USER, RESULT]}, "input[1].call_id"),
        ({"input": [USER, {**CALLED, "arguments": "{"}]}, "input[1].arguments"),
        ({"input": [CALLED, {**RESULT, "output": {"a": 1}}]}, "input[1].output"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": 5}, "input"),
        ({"max_output_tokens": 100_000}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "strin"}}}}, "text.format.schema"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temprature": 1}, "temprature"),
    ],
)
async def test_what_is_wrong_is_refused_by_its_path(
    client: httpx.AsyncClient, change: dict[str, Any], param: str | None
) -> None:
    response = await client.post("/v1/responses", json={**ASK, **change})
    assert response.status_code == 400, response.text
    found = response.json()["error"]["param"]
    assert found == param if param is not None else found.startswith("input[0]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reasoning": {"effort": "high"}}, "'reasoning.effort' is for models that think first; this one does not."),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "f"}},
            "'tool_choice.name' is 'f', which is none of the 'tools': get_weather.",
        ),
        ({"reasoning": {"summary": "auto"}}, "'reasoning.summary' is not supported: leave it out."),
        (
            {"instructions": "Look.", "input": [USER, {"role": "user", "content": [IMAGE]}]},
            "'input[1].content[0].type' is 'input_image'; this model takes text only: send parts of type 'input_text'.",
        ),
        ({"input": [USER, RESULT]}, "'input[1].call_id' is 'c'; no message before has a call of that id."),
        ({"max_tokens": 5}, "'max_tokens' is not supported: use 'max_output_tokens'."),
        ({"response_format": {"type": "json_object"}}, "'response_format' is not supported: use 'text.format'."),
        ({"input": 5}, "Invalid value for 'input': must be text, or a list of items."),
        (
            {"previous_response_id": "resp_1"},
            "'previous_response_id' is not supported: nothing is stored here; send the earlier items in 'input'.",
        ),
    ],
)
async def test_a_refusal_speaks_of_its_own_fields(
    client: httpx.AsyncClient, change: dict[str, Any], message: str
) -> None:
    response = await client.post("/v1/responses", json={**ASK, **change})

    assert response.json()["error"]["message"] == message
