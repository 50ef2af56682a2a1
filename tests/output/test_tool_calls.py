"""Tool calls out of text that comes in pieces of any size."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidance_core.output.tool_calls import CallDelta, ContentDelta, Delta, ToolCallParser
from guidance_core.tool_format import FORMATS, HERMES, JSON, LLAMA3_JSON, ToolFormat

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
calls = st.lists(
    st.tuples(
        st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True), st.dictionaries(st.text(), json_values, max_size=3)
    ),
    min_size=1,
    max_size=3,
)


def written(tool_format: ToolFormat, called: list[tuple[str, dict[str, object]]]) -> str:
    """The calls as a model writes them."""
    each = [
        f"{tool_format.opener}{name}{tool_format.middle}{json.dumps(arguments)}{tool_format.closer}"
        for name, arguments in called
    ]
    return tool_format.begin + tool_format.between.join(each) + tool_format.end


def read(tool_format: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls (name, arguments) of a text that comes in pieces."""
    parser = ToolCallParser(tool_format)
    deltas: list[Delta] = [delta for piece in pieces for delta in parser.push(piece)] + parser.finish()
    content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    found: list[tuple[str, str]] = []
    for delta in deltas:
        if isinstance(delta, CallDelta):
            if delta.name is not None:
                assert delta.index == len(found)
                found.append((delta.name, ""))
            name, arguments = found[delta.index]
            found[delta.index] = (name, arguments + delta.arguments)
    assert parser.calls == len(found)
    return content, found


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces."""
    bounds = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
@given(called=calls, places=st.lists(st.integers(0, 10_000)))
def test_calls_are_read_however_the_text_is_cut(
    tool_format: ToolFormat, called: list[tuple[str, dict[str, object]]], places: list[int]
) -> None:
    content, found = read(tool_format, cut(written(tool_format, called), places))
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == called


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
@given(text=st.text(), places=st.lists(st.integers(0, 10_000)))
def test_text_without_calls_is_content_to_the_last_character(
    tool_format: ToolFormat, text: str, places: list[int]
) -> None:
    assert read(tool_format, cut(text, places)) == (text, [])


@given(text=st.text().map(str.strip), called=calls, places=st.lists(st.integers(0, 10_000)))
def test_text_may_stand_before_calls(text: str, called: list[tuple[str, dict[str, object]]], places: list[int]) -> None:
    content, found = read(HERMES, cut(text + "\n" + written(HERMES, called), places))
    assert content == text
    assert len(found) == len(called)


def test_text_that_only_resembles_a_trigger_is_not_lost() -> None:
    assert read(HERMES, ["a <tool", "_bar> b <tool_"]) == ("a <tool_bar> b <tool_", [])
    assert read(LLAMA3_JSON, ['{"nam', 'e": 1}']) == ('{"name": 1}', [])
    assert read(JSON, ["see ", '{"tool_calls": [']) == ('see {"tool_calls": [', [])


def test_content_is_given_out_as_it_comes() -> None:
    parser = ToolCallParser(HERMES)
    assert parser.push("Let me see") == [ContentDelta("Let me see")]
    assert parser.push(". <tool_") == [ContentDelta(".")]
    assert parser.push("call>\n") == []
    assert parser.push('{"name": "f", "arguments": {"a"') == [CallDelta(0, "f"), CallDelta(0, arguments='{"a"')]
    assert parser.push(": 1}}\n</tool_call>") == [CallDelta(0, arguments=": 1}")]


def test_a_call_that_is_cut_off_keeps_what_there_is() -> None:
    text = written(HERMES, [("f", {"city": "Rome"})])
    content, found = read(HERMES, [text[: text.index("Rome")]])
    assert (content, found) == ("", [("f", '{"city": "')])


@pytest.mark.parametrize(
    ("tool_format", "text"),
    [
        (HERMES, '<tool_call>{"name"'),
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {}}</tool_call>'),
        (JSON, written(JSON, [("f", {})]) + "x"),
        (LLAMA3_JSON, written(LLAMA3_JSON, [("f", {})]) + ";;"),
    ],
)
def test_what_is_not_in_the_format_is_an_error(tool_format: ToolFormat, text: str) -> None:
    with pytest.raises(ValueError, match=r"stands where|follows"):
        read(tool_format, [text])
