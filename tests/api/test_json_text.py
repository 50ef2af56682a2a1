from __future__ import annotations

import json
import math
from typing import Any

import pytest
from starlette.responses import JSONResponse

from guidance_core.api.json_text import Json, JsonBody, json_ascii, logprob_json

VALUES: list[Any] = [
    {"index": 0, "delta": {"content": 'a "b"\\\n\u2028é😀\ud800\x7f'}, "logprobs": None, "finish_reason": "stop"},
    {"é": [], "": {}, "list": [1, -0.0, 1e-07, 1e22, True, False, None, "", 10**30, (1, "é")]},
    "text",
    [],
]


@pytest.mark.parametrize("value", VALUES)
def test_it_is_what_json_writes(value: Any) -> None:
    assert json_ascii(value) == json.dumps(value, separators=(",", ":"))


@pytest.mark.parametrize(
    "value",
    [
        {"text": "é😀\u2028\x7f", "usage": {"total": 3, "share": 0.25}, "choices": [{"index": 0}, "é"], "none": []},
        {},
        [{"text": "é"}],
    ],
)
def test_a_body_is_what_starlette_writes(value: Any) -> None:
    ours, theirs = JsonBody(value), JSONResponse(value)
    assert ours.body == theirs.body
    assert ours.raw_headers == theirs.raw_headers


def test_a_body_has_no_infinity() -> None:
    with pytest.raises(ValueError, match="JSON"):
        JsonBody({"value": math.inf})


def test_what_is_json_already_goes_in_as_it_is() -> None:
    assert json_ascii({"a": [Json('{"b":1}'), "{}"], "c": Json("2")}) == '{"a":[{"b":1},"{}"],"c":2}'


@pytest.mark.parametrize("logprob", [-0.0, -1e-07, -12.345678901234567, -9998.9, -9999.0, -1e10, -math.inf])
def test_a_logprob_is_a_number_that_json_has(logprob: float) -> None:
    assert logprob_json(logprob) == json.dumps(max(logprob, -9999.0))
