"""OpenAI's own client against the running service."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import jsonschema
import openai as openai_client
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

from tests.integration.conftest import MODEL, Server

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)
    mood: Literal["happy", "sad"]


def test_a_chat_answers(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model=MODEL, messages=ASK, max_tokens=20, temperature=0)

    assert "Paris" in (completion.choices[0].message.content or "")
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_a_stream_is_the_same_answer_in_pieces(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(model=MODEL, messages=ASK, max_tokens=20, temperature=0)
    chunks = list(
        openai.chat.completions.create(
            model=MODEL,
            messages=ASK,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens if whole.usage else False


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_continuation_is_scored_as_lm_evaluation_harness_asks_for_it(openai: OpenAI, max_tokens: int) -> None:
    """Greedily answered, it is at each place the likeliest token, with the probability that answering it had."""
    prompt = "The capital of France is"
    told = openai.completions.create(model=MODEL, prompt=prompt, max_tokens=2, temperature=0, logprobs=1).choices[0]
    assert told.logprobs is not None
    scored = openai.completions.create(
        model=MODEL, prompt=[prompt + told.text, "Paris"], max_tokens=max_tokens, temperature=0, logprobs=1, echo=True
    )
    [whole, short] = [choice.logprobs for choice in scored.choices]
    assert whole is not None
    assert short is not None
    assert None not in (whole.tokens, whole.token_logprobs, whole.top_logprobs)
    start = len(whole.tokens or []) - max_tokens - 2
    continuation = slice(start, start + 2)
    assert (whole.tokens or [])[continuation] == told.logprobs.tokens
    assert (whole.token_logprobs or [])[continuation] == pytest.approx(told.logprobs.token_logprobs, abs=0.2)
    for logprob, top in zip(
        (whole.token_logprobs or [])[continuation], (whole.top_logprobs or [])[continuation], strict=True
    ):
        assert logprob == max(top.values())
    assert (short.token_logprobs or [])[0] is None


def test_a_system_prompt_that_comes_again_is_cached(openai: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You answer like a pirate. " * 10},
        {"role": "user", "content": "Hello"},
    ]
    openai.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
    again = openai.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)

    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 50


def test_parse_gives_a_pydantic_model(openai: OpenAI) -> None:
    completion = openai.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Invent a person."}], response_format=Person
    )

    assert isinstance(completion.choices[0].message.parsed, Person)


def test_the_stream_helper_parses_too(openai: OpenAI) -> None:
    with openai.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": "Invent a person."}], response_format=Person
    ) as stream:
        completion = stream.get_final_completion()

    assert isinstance(completion.choices[0].message.parsed, Person)


async def test_async_requests_run_side_by_side_each_in_its_own_grammar(server: Server) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:

        async def ask(pattern: str, stream: bool) -> str:
            fields: dict[str, Any] = {"extra_body": {"guided_regex": pattern}, "max_tokens": 60}
            if not stream:
                completion = await client.chat.completions.create(model=MODEL, messages=ASK, **fields)
                return completion.choices[0].message.content or ""
            chunks = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True, **fields)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

        answers = await asyncio.gather(*(ask(f"[{letter}]{{3}}", i % 2 == 0) for i, letter in enumerate("abcdefgh")))

    assert answers == [letter * 3 for letter in "abcdefgh"]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_a_schema_holds_at_any_temperature_and_for_each_choice(openai: OpenAI, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}, "n": {"type": "null"}},
        "required": ["tags", "n"],
        "additionalProperties": False,
    }
    completion = openai.chat.completions.create(
        model=MODEL,
        messages=ASK,
        n=3,
        temperature=temperature,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )

    assert [choice.finish_reason for choice in completion.choices] == ["stop"] * 3
    for choice in completion.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), schema)


def test_an_answer_that_is_cut_off_says_length(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=3, extra_body={"guided_regex": "[a-z]{50}"}
    )

    assert completion.choices[0].finish_reason == "length"


def test_the_same_seed_gives_the_same_answer(openai: OpenAI) -> None:
    texts = {
        openai.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=12, seed=7).choices[0].text
        for _ in range(3)
    }

    assert len(texts) == 1


def test_logprobs_are_of_the_answer_even_under_a_grammar(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(
        model=MODEL,
        messages=ASK,
        logprobs=True,
        top_logprobs=3,
        temperature=0,
        extra_body={"guided_choice": ["Rome", "Paris"]},
    )

    choice = completion.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in choice.logprobs.content)


def test_stop_strings_are_not_returned(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model=MODEL, messages=ASK, temperature=0, stop=["France"])

    assert completion.choices[0].message.content == "The capital of "
    assert completion.choices[0].finish_reason == "stop"


def test_models_can_be_listed_and_looked_up(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == [MODEL]
    assert openai.models.retrieve(MODEL).id == MODEL


def test_the_client_raises_its_own_errors(openai: OpenAI) -> None:
    with pytest.raises(openai_client.NotFoundError, match="does not exist"):
        openai.models.retrieve("gpt-4")
    with pytest.raises(openai_client.NotFoundError, match="does not exist"):
        openai.chat.completions.create(model="gpt-4", messages=ASK)
    with pytest.raises(openai_client.BadRequestError, match="context") as too_long:
        openai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 20_000}])
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai_client.BadRequestError) as bad_grammar:
        openai.chat.completions.create(model=MODEL, messages=ASK, stream=True, extra_body={"guided_regex": "("})
    assert (bad_grammar.value.code, bad_grammar.value.param) == ("invalid_grammar", "guided_regex")
    with pytest.raises(openai_client.BadRequestError, match="The parameters of 'f'") as bad_tool:
        openai.chat.completions.create(model=MODEL, messages=ASK, tools=[tool("f", {"type": "array"})])
    assert bad_tool.value.param == "tools[0].function.parameters"


def tool(name: str, parameters: dict[str, Any]) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "forecast"}}])
def test_tools_are_called_with_arguments_that_validate(openai: OpenAI, choice: Any) -> None:
    tools = [tool("forecast", CITY), tool("now", {"type": "object", "properties": {}, "additionalProperties": False})]
    ask: list[Any] = [{"role": "user", "content": "How will the weather be in Rome?"}]
    with openai.chat.completions.stream(
        model=MODEL, messages=ask, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=80
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    [call] = message.tool_calls
    if call.function.name == "forecast":
        jsonschema.validate(json.loads(call.function.arguments), CITY)
    ask += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}]
    answer = openai.chat.completions.create(model=MODEL, messages=ask, tools=tools, tool_choice="none", max_tokens=8)
    assert answer.choices[0].message.tool_calls is None


def test_responses_are_created_parsed_and_streamed(openai: OpenAI) -> None:
    parsed = openai.responses.parse(model=MODEL, input="Invent a person.", text_format=Person, max_output_tokens=60)
    assert isinstance(parsed.output_parsed, Person)
    with openai.responses.stream(model=MODEL, input="Say hello.", max_output_tokens=8) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_functions_are_called_as_before_there_were_tools(openai: OpenAI) -> None:
    functions: Any = [{"name": "forecast", "parameters": CITY}]
    ask: list[Any] = [{"role": "user", "content": "How will the weather be in Rome?"}]
    options: dict[str, Any] = {"model": MODEL, "functions": functions, "temperature": 0, "max_tokens": 60}
    choice = openai.chat.completions.create(messages=ask, function_call={"name": "forecast"}, **options).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    jsonschema.validate(json.loads(choice.message.function_call.arguments), CITY)
    ask += [choice.message.model_dump(), {"role": "function", "name": "forecast", "content": "Sunny."}]
    answer = openai.chat.completions.create(messages=ask, function_call="none", **options)
    assert answer.choices[0].message.function_call is None


def test_a_responses_whole_output_goes_back_into_its_input(openai: OpenAI) -> None:
    tools: list[Any] = [{"type": "function", "name": "forecast", "parameters": CITY}]
    said: list[Any] = [{"role": "user", "content": "How will the weather be in Rome?"}]
    options: dict[str, Any] = {"model": MODEL, "tools": tools, "temperature": 0}
    first = openai.responses.create(
        input=said, tool_choice={"type": "function", "name": "forecast"}, max_output_tokens=60, **options
    )
    [call] = first.output
    assert call.type == "function_call"
    said += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}]
    *_, last = openai.responses.create(input=said, tool_choice="none", max_output_tokens=8, stream=True, **options)
    assert last.type == "response.incomplete"
    said += [*last.response.output, {"role": "user", "content": "Thanks!"}]
    third = openai.responses.create(input=said, tool_choice="none", truncation="auto", max_output_tokens=4, **options)
    assert [item.type for item in third.output] == ["message"]
