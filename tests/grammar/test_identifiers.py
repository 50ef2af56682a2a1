from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLTokenizer

from guidance_core.errors import InvalidGrammar
from tests.grammar.translated import grammar_accepts, passes, translated

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"items": {"$ref": "#text"}, "$defs": {"a": {"$anchor": "text", "type": "string"}}},
        {"items": {"$ref": "#text"}, "$defs": {"a": {"$dynamicAnchor": "text", "type": "string"}}},
        {"items": {"$dynamicRef": "#text"}, "$defs": {"a": {"$dynamicAnchor": "text", "type": "string"}}},
        {"items": {"$ref": "https://example.com/a"}, "not": {"$id": "https://example.com/a", "type": "string"}},
        {"$id": "https://example.com/a/b", "items": {"$ref": "c"}, "$defs": {"c": {"$id": "c", "type": "string"}}},
        {"items": {"$ref": "urn:a:b#/$defs/c"}, "$defs": {"d": {"$id": "urn:a:b", "$defs": {"c": {"type": "string"}}}}},
        {"items": {"$ref": "#/$defs/50%25%20off"}, "$defs": {"50% off": {"type": "string"}}},
        {"items": {"$ref": "#/$defs/List<string|null>[]"}, "$defs": {"List<string|null>[]": {"type": "string"}}},
        {"items": {"$ref": "#/$defs/é%"}, "$defs": {"é%": {"type": "string"}}},
        {"$id": "our settings", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string"}}},
        {"$id": "settings#list", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string"}}},
        {
            "$id": "https://json-schema.org/draft/2020-12/meta/validation",
            "items": {"$ref": "#/$defs/simpleTypes"},
            "$defs": {"simpleTypes": {"type": "string"}},
        },
        {"$schema": DRAFT_7, "items": {"$ref": "#a"}, "definitions": {"a": {"$id": "#a", "type": "string"}}},
        {"$schema": DRAFT_4, "items": {"$ref": "b"}, "definitions": {"a": {"id": "b", "type": "string"}}},
        {
            "$schema": DRAFT_2019,
            "items": {"$id": "https://example.com/a", "type": ["string", "array"], "items": {"$recursiveRef": "#"}},
        },
    ],
)
def test_references_by_name_are_followed(ll_tokenizer: LLTokenizer, schema: dict[str, Any]) -> None:
    translation = translated(schema | {"type": "array"} if "not" not in schema else schema)
    assert translation.check is None
    assert grammar_accepts(ll_tokenizer, translation, '["a"]')
    assert not grammar_accepts(ll_tokenizer, translation, "[1]")


def test_a_dynamic_reference_to_one_of_several_is_checked(ll_tokenizer: LLTokenizer) -> None:
    inner = {"$id": "inner", "$dynamicAnchor": "a", "items": {"$dynamicRef": "#a"}, "type": "array"}
    schema = {
        "$id": "https://example.com/",
        "$dynamicAnchor": "a",
        "$ref": "inner",
        "maxItems": 1,
        "$defs": {"b": inner},
    }
    translation = translated(schema)
    assert translation.route == "checked"
    assert passes(translation, "[[]]")
    assert not passes(translation, "[[[], []]]")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"$anchor": "a", "allOf": [{"$ref": "#a"}]}, "leads back to itself"),
        ({"$id": "urn:a:b", "type": "array", "items": {"$ref": "urn:a:b"}, "minItems": 1}, "no finite value"),
        (
            {"$ref": "https://example.com/schema.json"},
            "'https://example.com/schema.json' leads to nothing in the schema",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "at #/properties/a/\\$ref: '#/\\$defs/b' leads to nothing"),
        (
            {"$schema": "https://json-schema.org/draft-07/schema#", "items": [{}]},
            "at #/\\$schema: .* is read as 'http://json-schema.org/draft-07/schema' by some .* and 'items' could",
        ),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "draft 3 is not supported"),
        ({"items": {"$schema": DRAFT_7, "items": [{}]}}, "at #/items/\\$schema: 'items' could mean something else"),
    ],
)
def test_what_leads_nowhere_or_is_in_no_draft_is_refused(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidGrammar, match=named):
        translated(schema)


@pytest.mark.parametrize(
    "name",
    [
        "https://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft/2020-12/schema",
        "http://json-schema.org/schema#",
        "json-schema.org/draft-04/schema",
        "https://example.com/our-own.json",
        "",
    ],
)
def test_names_of_drafts_that_are_misspelt_or_unknown_mean_the_latest_as_to_other_readers(name: str) -> None:
    schema = {"$schema": name, "type": "object", "properties": {"a": {"$ref": "#/definitions/b"}}}
    translation = translated(schema | {"definitions": {"b": {"type": "integer", "maximum": 9}}})
    assert translation.route == "exact"


def test_a_draft_inside_that_reads_the_same_is_taken(ll_tokenizer: LLTokenizer) -> None:
    schema = {"type": "array", "items": {"$schema": DRAFT_7, "type": "array", "items": {"pattern": "b(?!a)"}}}
    translation = translated(schema)
    assert grammar_accepts(ll_tokenizer, translation, '[["b"]]')
    assert passes(translation, '[["b"]]')
    assert not passes(translation, '[["ba"]]')
