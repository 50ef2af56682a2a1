"""Every rewrite: the same instances are right before and after."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLTokenizer

from tests.grammar.agreement import assert_agreement
from tests.grammar.random_schemas import KEYS, keyword, objects, schemas, values

DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
names = st.sampled_from(KEYS)
name_lists = st.lists(names, max_size=2, unique=True)


def beside(base: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Keywords beside each other."""
    return st.tuples(base, *others).map(lambda parts: {key: value for part in parts for key, value in part.items()})


REWRITES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "not": beside(objects, keyword("not", schemas)),
    "not not": keyword("not", keyword("not", schemas)),
    "not in a property": keyword("properties", st.dictionaries(names, keyword("not", schemas), min_size=1, max_size=2)),
    "if then else": beside(objects, keyword("if", schemas), keyword("then", schemas), keyword("else", schemas)),
    "if then": beside(keyword("if", schemas), keyword("then", schemas)),
    "dependencies": beside(
        st.just(DRAFT_7),
        objects,
        keyword("dependencies", st.dictionaries(names, st.one_of(name_lists, schemas), min_size=1, max_size=2)),
    ),
    "dependentRequired": beside(objects, keyword("dependentRequired", st.dictionaries(names, name_lists, max_size=3))),
    "dependentSchemas": beside(objects, keyword("dependentSchemas", st.dictionaries(names, schemas, max_size=2))),
    "oneOf": beside(objects, keyword("oneOf", st.lists(schemas, min_size=2, max_size=3))),
    "propertyNames": beside(objects, keyword("propertyNames", schemas)),
    "minProperties": beside(
        objects, keyword("minProperties", st.integers(0, 3)), keyword("maxProperties", st.integers(0, 4))
    ),
    "minProperties alone": beside(objects, keyword("minProperties", st.integers(1, 3))),
    "uniqueItems": beside(schemas, keyword("uniqueItems", st.just(True))),
    "contains": beside(keyword("contains", schemas), keyword("maxItems", st.integers(0, 4))),
    "minContains": beside(
        keyword("contains", schemas),
        keyword("minContains", st.integers(0, 2)),
        keyword("maxContains", st.integers(0, 2)),
    ),
    "unevaluatedProperties": beside(objects, keyword("unevaluatedProperties", st.one_of(st.booleans(), schemas))),
    "unevaluatedItems": beside(
        keyword("prefixItems", st.lists(schemas, min_size=1, max_size=2)),
        keyword("unevaluatedItems", st.one_of(st.booleans(), schemas)),
    ),
    "enum": beside(keyword("enum", st.lists(values, min_size=1, max_size=4)), keyword("not", schemas)),
    "$ref": beside(
        keyword("$ref", st.just("#/$defs/node")),
        keyword("minProperties", st.integers(0, 1)),
        keyword(
            "$defs",
            keyword(
                "node",
                beside(
                    objects,
                    keyword(
                        "properties",
                        keyword("a", beside(keyword("$ref", st.just("#/$defs/node")), keyword("required", name_lists))),
                    ),
                ),
            ),
        ),
    ),
    "multipleOf": keyword("multipleOf", st.sampled_from((0.5, 0.1, 0.25, 1.5, 0.01))),
    "patternProperties": beside(
        keyword("patternProperties", st.dictionaries(st.sampled_from(("^a", "^(?!a)", "b|c")), schemas, max_size=2)),
        keyword("additionalProperties", st.one_of(st.booleans(), schemas)),
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_the_same_instances_are_right_before_and_after(ll_tokenizer: LLTokenizer, name: str) -> None:
    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(schema=REWRITES[name], instances=st.lists(values, min_size=6, max_size=12))
    def check(schema: dict[str, Any], instances: list[Any]) -> None:
        assert_agreement(ll_tokenizer, schema, instances)

    check()
