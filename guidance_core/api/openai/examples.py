"""Requests that run as they are, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from guidance_core.api.example_schemas import PERSON
from guidance_core.model_store import DEFAULT_NAME

MODEL = DEFAULT_NAME

_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
_WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather now", "parameters": _CITY}}


def _chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def _completion(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "temperature": 0, **fields}


CHAT: dict[str, dict[str, Any]] = {
    "plain": _chat("What is the capital of France?", max_tokens=32),
    "JSON schema": _chat(
        "Invent a person.",
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}},
    ),
    "regular expression": _chat("Is water wet?", response_format={"type": "regex", "regex": "yes|no"}),
    "an ending that fits, and what guidance did": _chat(
        "Describe the sea.",
        max_tokens=24,
        response_format={"type": "regex", "regex": "[A-Z][a-z ,]{10,400}[.]"},
        fit_to_max_tokens=True,
        include_guidance=True,
    ),
    "tools": _chat("What is the weather in Rome?", max_tokens=64, tools=[_WEATHER], tool_choice="required"),
    "stream": _chat("What is the capital of France?", max_tokens=32, stream=True),
}

COMPLETION: dict[str, dict[str, Any]] = {
    "plain": _completion("The capital of France is", max_tokens=8),
    "regular expression": _completion("An ISO date: ", response_format={"type": "regex", "regex": "[0-9]{4}-[0-9]{2}"}),
    "Lark grammar": _completion(
        "Two numbers: ",
        response_format={"type": "lark_grammar", "lark_grammar": 'start: NUMBER " " NUMBER\nNUMBER: /[0-9]{1,3}/'},
    ),
    "stream": _completion("The capital of France is", max_tokens=8, stream=True),
}

RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {"model": MODEL, "input": "What is the capital of France?", "max_output_tokens": 32},
    "JSON schema": {
        "model": MODEL,
        "input": "Invent a person.",
        "max_output_tokens": 64,
        "text": {"format": {"type": "json_schema", "name": "person", "schema": PERSON}},
    },
    "tools": {
        "model": MODEL,
        "input": "What is the weather in Rome?",
        "max_output_tokens": 64,
        "tools": [{"type": "function", "name": "get_weather", "parameters": _CITY}],
        "tool_choice": "required",
    },
    "stream": {"model": MODEL, "input": "What is the capital of France?", "max_output_tokens": 32, "stream": True},
}

BY_PATH = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSES,
    "/v1/responses/input_tokens": {name: RESPONSES[name] for name in ("plain", "tools")},
}
