"""Requests that run as they are, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from guidance_core.model_store import DEFAULT_NAME

MODEL = DEFAULT_NAME

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def _chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def _completion(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "temperature": 0, **fields}


CHAT: dict[str, dict[str, Any]] = {
    "plain": _chat("What is the capital of France?", max_tokens=32),
    "JSON schema": _chat(
        "Invent a person.",
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": _PERSON}},
    ),
    "regular expression": _chat("Is water wet?", response_format={"type": "regex", "regex": "yes|no"}),
    "an ending that fits, and what guidance did": _chat(
        "Describe the sea.",
        max_tokens=24,
        response_format={"type": "regex", "regex": "[A-Z][a-z ,]{10,400}[.]"},
        fit_to_max_tokens=True,
        include_guidance=True,
    ),
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

BY_PATH = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}
