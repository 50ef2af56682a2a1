"""`huggingface_hub`'s inference client against the running service, as it speaks to text-generation-inference."""

from __future__ import annotations

import json

import jsonschema
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from tests.integration.conftest import MODEL, Server

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def client(server: Server) -> InferenceClient:
    return InferenceClient(model=f"{server.url}/tgi", timeout=60)


def test_text_comes_whole_in_pieces_and_with_details(client: InferenceClient) -> None:
    whole = client.text_generation(PROMPT, max_new_tokens=6)
    pieces = list(client.text_generation(PROMPT, max_new_tokens=6, stream=True))
    details = client.text_generation(PROMPT, max_new_tokens=6, details=True)
    events = list(client.text_generation(PROMPT, max_new_tokens=6, details=True, stream=True))

    assert "Paris" in whole
    assert "".join(pieces) == whole == details.generated_text == events[-1].generated_text
    assert len(pieces) == details.details.generated_tokens == 6
    assert [token.text for token in details.details.tokens] == pieces
    assert events[-1].details.finish_reason == details.details.finish_reason == "length"


def test_the_full_text_begins_with_the_prompt(client: InferenceClient) -> None:
    assert client.text_generation(PROMPT, max_new_tokens=2, return_full_text=True).startswith(PROMPT)


def test_a_grammar_holds(client: InferenceClient) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["happy", "sad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    text = client.text_generation(
        "How are you? ", max_new_tokens=32, grammar={"type": "json", "value": schema}, temperature=1.5, seed=3
    )

    jsonschema.validate(json.loads(text), schema)


def test_a_chat_is_answered_under_the_same_address(server: Server) -> None:
    client = InferenceClient(base_url=f"{server.url}/tgi", timeout=60)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    whole = client.chat_completion(messages, max_tokens=8, temperature=0.0)
    chunks = list(client.chat_completion(messages, max_tokens=8, temperature=0.0, stream=True))

    assert "Paris" in whole.choices[0].message.content
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content


@pytest.mark.parametrize("base", ["tgi", "v1"])
def test_a_chat_follows_a_schema_and_calls_tools(server: Server, base: str) -> None:
    client = InferenceClient(base_url=f"{server.url}/{base}", timeout=60)
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["happy", "sad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    ask = {"messages": [{"role": "user", "content": "How are you?"}], "model": MODEL, "max_tokens": 40}
    wanted = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema, "strict": True}}
    told = client.chat_completion(**ask, response_format=wanted).choices[0].message.content
    jsonschema.validate(json.loads(told), schema)

    tools = [{"type": "function", "function": {"name": "tell", "description": "Tell", "parameters": schema}}]
    named = {"type": "function", "function": {"name": "tell"}}
    [call] = client.chat_completion(**ask, tools=tools, tool_choice=named).choices[0].message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), schema)


def test_the_client_raises_its_own_errors(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="watermark"):
        client.text_generation(PROMPT, watermark=True)
