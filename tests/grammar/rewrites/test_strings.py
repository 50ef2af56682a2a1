"""Patterns and formats that llguidance does not take."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLTokenizer

from tests.grammar.translated import grammar_accepts, passes, translated


@pytest.mark.parametrize(
    ("pattern", "route"),
    [
        (r"^(?=.*[A-Z])(?=.*\d)[A-Za-z0-9]{3,}$", "rewritten"),
        ("^(?!admin$|root$)[a-z]+$", "checked"),
        ("^(?!(?:admin|root)$)[a-z]+$", "rewritten"),
        ("^(?!ad|ro)[a-z]+$", "rewritten"),
        (r"^(?!\.)[a-z.]+$", "rewritten"),
        (r"^a(?!b)[a-z]*$", "checked"),
        (r"\bcat\b", "checked"),
        (r"^(a|b)\1$", "checked"),
        (r"^(?=a)b|c$", "checked"),
        (r"^(?=a[|)])a", "rewritten"),
    ],
)
def test_assertions_hold(ll_tokenizer: LLTokenizer, pattern: str, route: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    translation = translated(schema)
    assert translation.route == route
    texts = ("", "a", "b", "c", "aa", "ab", "ad", "ac", "aB1", "AB", "B12", "admin", "administer", "root", "x.y", ".x")
    for text in (*texts, "a cat", "cats", "a|", "a)", "abc"):
        accepted = grammar_accepts(ll_tokenizer, translation, json.dumps(text))
        valid = Draft202012Validator(schema).is_valid(text)
        assert accepted or not valid, text
        assert (accepted and passes(translation, json.dumps(text))) == valid, text


@pytest.mark.parametrize(
    ("name", "valid", "invalid"),
    [
        (
            "uri-reference",
            ["/a/b?c#d", "", "http://example.com/%20", "../x", "//host", "?q"],
            ["a b", "[", "%zz", "1:/"],
        ),
        ("iri", ["http://é.com/ü"], ["/ü", "a b:"]),
        ("iri-reference", ["/ü", "é"], ["<é>"]),
        ("uri-template", ["/a/{b}", "{?x,y*}", "x{+p:3}"], ["{", "{}", "a b"]),
        ("json-pointer", ["", "/a~0b/c~1"], ["a", "/~2"]),
        ("relative-json-pointer", ["0", "1/a", "2#"], ["01", "/a", "#"]),
        ("idn-email", ["ü@é.com"], ["ü", "@x", "a@"]),
    ],
)
def test_formats_of_the_standard_are_enforced(
    ll_tokenizer: LLTokenizer, name: str, valid: list[str], invalid: list[str]
) -> None:
    translation = translated({"type": "string", "format": name})
    assert translation.check is None
    assert [text for text in valid if not grammar_accepts(ll_tokenizer, translation, f'"{text}"')] == []
    assert [text for text in invalid if grammar_accepts(ll_tokenizer, translation, f'"{text}"')] == []


def test_unknown_formats_constrain_nothing(ll_tokenizer: LLTokenizer) -> None:
    translation = translated({"type": "string", "format": "byte"})
    assert translation.route == "rewritten"
    assert translation.notes == ("'format' at #/: 'byte' is an annotation, which constrains nothing",)
    assert grammar_accepts(ll_tokenizer, translation, '"any text"')


def test_formats_without_a_pattern_are_checked() -> None:
    translation = translated({"type": "string", "format": "regex"})
    assert translation.route == "checked"
    assert passes(translation, '"a+"')
    assert not passes(translation, '"("')


def test_a_length_that_llguidance_cannot_put_beside_a_pattern_is_checked(ll_tokenizer: LLTokenizer) -> None:
    host = "^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z0-9][a-z0-9-]{0,61}[a-z0-9]$"
    translation = translated({"type": "string", "pattern": host, "minLength": 1, "maxLength": 253})
    assert translation.route == "checked"
    assert grammar_accepts(ll_tokenizer, translation, '"example.com"')
    assert passes(translation, '"example.com"')
    assert not grammar_accepts(ll_tokenizer, translation, '"example"')
    assert not passes(translation, json.dumps("a." * 130 + "com"))


def test_two_long_lists_of_words_are_merged(ll_tokenizer: LLTokenizer) -> None:
    words = [f"Europe/{number}" for number in range(400)]
    zone = {"$defs": {"zone": {"enum": words}}, "type": "object", "properties": {"zone": {"$ref": "#/$defs/zone"}}}
    schema = zone | {"allOf": [{"properties": {"zone": {"$ref": "#/$defs/zone"}}}], "additionalProperties": False}
    translation = translated(schema)
    assert grammar_accepts(ll_tokenizer, translation, '{"zone": "Europe/399"}')
    assert not grammar_accepts(ll_tokenizer, translation, '{"zone": "Europe/400"}')
