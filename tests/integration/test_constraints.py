"""Constraints through OpenAI's own client: answers that are checked as a whole, and what a request is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import openai as openai_client
import pytest
from openai import OpenAI
from openai.types import CompletionChoice
from openai.types.chat import ChatCompletionMessageParam
from tokenizers import Tokenizer

from tests.integration.conftest import MODEL, Server, wait_until

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name some numbers."}]
UNIQUE = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 999},
    "minItems": 3,
    "maxItems": 3,
    "uniqueItems": True,
}


def schema_format(schema: dict[str, Any], strict: object = True) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_that_is_checked_as_a_whole_holds_for_each_choice(openai: OpenAI, temperature: float) -> None:
    completion = openai.chat.completions.create(
        model=MODEL,
        messages=ASK,
        n=3,
        seed=1,
        temperature=temperature,
        response_format=schema_format(UNIQUE),
        extra_body={"include_guidance": True},
    )

    assert completion.usage is not None
    assert (completion.usage.model_extra or {})["guidance"]["route"] == "checked"
    for choice in completion.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), UNIQUE)


def test_its_stream_is_the_same_answer(openai: OpenAI) -> None:
    fields: dict[str, Any] = {"model": MODEL, "messages": ASK, "seed": 3, "response_format": schema_format(UNIQUE)}
    whole = openai.chat.completions.create(**fields)
    chunks = list(
        openai.chat.completions.create(
            **fields,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"include_guidance": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.model_extra or {})["guidance"]["choices"][0]["attempts"] >= 1


def test_a_client_that_leaves_a_held_stream_frees_every_slot(server: Server, openai: OpenAI) -> None:
    many = {**UNIQUE, "minItems": 100, "maxItems": 100}
    stream = openai.chat.completions.create(
        model=MODEL, messages=ASK, n=3, stream=True, response_format=schema_format(many)
    )
    assert next(stream).choices[0].delta.role == "assistant"
    assert server.running() > 0
    stream.close()

    wait_until(lambda: server.running() == 0, seconds=20)


def test_what_the_model_cannot_get_right_is_an_error_and_no_answer(openai: OpenAI, model_path: Path) -> None:
    # Fives and sixes, without sixes.
    vocabulary = Tokenizer.from_file(str(model_path / "tokenizer.json")).get_vocab()
    no_sixes = {str(token_id): -100 for token, token_id in vocabulary.items() if "6" in token}
    two = {**UNIQUE, "items": {"type": "integer", "minimum": 5, "maximum": 6}, "minItems": 2, "maxItems": 2}
    with pytest.raises(openai_client.UnprocessableEntityError, match="non-unique") as failure:
        openai.chat.completions.create(
            model=MODEL,
            messages=ASK,
            logit_bias=no_sixes,
            response_format=schema_format(two),
            extra_body={"check_attempts": 2},
        )

    assert failure.value.code == "answer_rejected"


def test_exact_refuses_it_by_keyword_and_place(openai: OpenAI) -> None:
    schema = {"type": "object", "properties": {"numbers": UNIQUE}, "required": ["numbers"]}
    with pytest.raises(openai_client.BadRequestError, match="uniqueItems") as refusal:
        openai.chat.completions.create(model=MODEL, messages=ASK, response_format=schema_format(schema, "exact"))

    assert "numbers" in refusal.value.message
    assert (refusal.value.code, refusal.value.param) == ("invalid_grammar", "response_format.json_schema.schema")


def test_the_details_of_a_guided_answer_add_up(openai: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"temperature_in_celsius": {"type": "integer"}},
        "required": ["temperature_in_celsius"],
        "additionalProperties": False,
    }
    completion = openai.chat.completions.create(
        model=MODEL,
        messages=ASK,
        temperature=0,
        response_format=schema_format(schema),
        extra_body={"include_guidance": True},
    )

    assert completion.usage is not None
    guidance = (completion.usage.model_extra or {})["guidance"]
    (choice,) = guidance["choices"]
    assert (guidance["kind"], guidance["route"], choice["attempts"]) == ("json_schema", "exact", 1)
    assert 0 < choice["forced_tokens"] < completion.usage.completion_tokens
    assert 0 < choice["mask_us"]["p50"] <= choice["mask_us"]["p99"] <= choice["mask_us"]["total"]
    assert 0 <= choice["wait_us"]["total"] <= choice["mask_us"]["total"]
    assert 0 < choice["allowed_mass"]["min"] <= choice["allowed_mass"]["mean"] <= 1
    assert choice["surprise_bits"]["total"] >= choice["surprise_bits"]["max"] > 0


def test_an_answer_that_shall_fit_ends_inside_its_constraint(openai: OpenAI) -> None:
    def ask(**options: Any) -> CompletionChoice:
        body = {"guided_regex": "[a-z ]{0,200}!!!", **options}
        prompt = "once upon a time there was a"
        return openai.completions.create(
            model=MODEL, prompt=prompt, max_tokens=8, temperature=0, extra_body=body
        ).choices[0]

    assert ask().finish_reason == "length"
    fitted = ask(fit_to_max_tokens=True)
    assert fitted.finish_reason == "stop"
    assert fitted.text.endswith("!!!")
