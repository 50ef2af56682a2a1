from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from guidance_core.grammar.bounds import safe_ranges

BYTES = LLTokenizer("byte")
KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def grammar(schema: dict[str, Any]) -> LLMatcher:
    ranges = safe_ranges(schema, integer=schema["type"] == "integer")
    mended = {"type": schema["type"], "anyOf": ranges}
    return LLMatcher(BYTES, LLMatcher.grammar_from_json_schema(mended), log_level=0)


def accepts(matcher: LLMatcher, text: str) -> bool:
    copy = matcher.deep_copy()
    return copy.try_consume_tokens(list(text.encode())) == len(text) and copy.is_accepting()


def within(value: float, schema: dict[str, Any]) -> bool:
    """What JSON Schema says, in doubles."""
    return (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and not value <= schema.get("exclusiveMinimum", float("-inf"))
        and not value >= schema.get("exclusiveMaximum", float("inf"))
        and (schema["type"] == "number" or value == int(value))
    )


NUMBERS = st.one_of(
    st.integers(-200, 200).map(float),
    st.decimals(-200, 200, places=3).map(float),
    st.floats(-2, 2, allow_nan=False),
    st.integers(-(2**63), 2**63),
    st.sampled_from([0.0, -0.0, 0.1, 99.99999999999999, 1e-5, 2**53, -(2**63), 2**63 - 1]),
)
SCHEMAS = st.fixed_dictionaries(
    {"type": st.sampled_from(["number", "integer"])},
    optional=dict.fromkeys(KEYWORDS, NUMBERS),
).filter(lambda schema: len(schema) > 1)
OFFSETS = st.sampled_from([0, 1, -1, 0.1, -0.1, 0.01, -0.01, 0.5, 10, -10, 1e-9])


@settings(max_examples=400, deadline=None)
@given(SCHEMAS, st.data())
def test_no_number_out_of_bounds_passes(schema: dict[str, Any], data: st.DataObject) -> None:
    try:
        matcher = grammar(schema)
    except ValueError:
        assume(False)
    assume(not matcher.is_error())
    near = data.draw(st.sampled_from([schema[keyword] for keyword in KEYWORDS if keyword in schema]))
    for _ in range(8):
        value = near + data.draw(OFFSETS)
        places = data.draw(st.integers(0, 20))
        for text in (repr(value), f"{value:.{places}f}", str(int(value)), f"-{abs(value)!r}"):
            assert not accepts(matcher, text) or within(json.loads(text), schema), text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "number", "maximum": 0.24}, "0.2"),
        ({"type": "number", "maximum": 0.24}, "0.24"),
        ({"type": "number", "minimum": -1.125}, "-1.1"),
        ({"type": "number", "exclusiveMaximum": 1}, "0.9"),
        ({"type": "number", "exclusiveMaximum": 1}, "0.99"),
        ({"type": "number", "exclusiveMaximum": 100}, "99"),
        ({"type": "number", "exclusiveMinimum": 0}, "0.001"),
        ({"type": "integer", "exclusiveMinimum": 0}, "1"),
        ({"type": "integer", "maximum": 2**53 - 1, "minimum": 1 - 2**53}, str(2**53 - 1)),
        ({"type": "integer", "maximum": 2**63 - 1, "minimum": -(2**63)}, "-9223372036854000000"),
        ({"type": "number", "minimum": -90, "maximum": 90}, "-89.5"),
    ],
)
def test_numbers_within_bounds_pass(schema: dict[str, Any], text: str) -> None:
    assert accepts(grammar(schema), text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "number", "exclusiveMaximum": 0.1}, "0.0" + "9" * 30),
        ({"type": "number", "exclusiveMinimum": 0}, "0." + "0" * 400 + "1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0"),
        ({"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}, "-0"),
        ({"type": "number", "maximum": 99.99999999999999}, "100"),
        ({"type": "integer", "exclusiveMinimum": 2**53}, str(2**53)),
    ],
)
def test_numbers_that_only_their_digits_keep_within_bounds_do_not_pass(schema: dict[str, Any], text: str) -> None:
    assert not within(json.loads(text), schema)
    assert not accepts(grammar(schema), text)


def test_bounds_beyond_64_bits_are_refused_where_nothing_is_left() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        safe_ranges({"minimum": 1e22}, integer=False)
    assert safe_ranges({"maximum": 1e22}, integer=False) == [{"maximum": 9223372036854770000}]
