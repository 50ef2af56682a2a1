"""Small JSON schemas and values that meet often: few keys, few strings, few numbers."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

KEYS = ("a", "b", "c")
STRINGS = ("", "a", "b", "ab", "abc", "x-1")
NUMBERS = (-1, 0, 1, 2, 3, 0.5, 2.5)

scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(STRINGS))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from((*KEYS, "d", "x-1")), inner, max_size=4)
    ),
    max_leaves=5,
)
types = st.sampled_from(("null", "boolean", "integer", "number", "string", "array", "object"))


def _object(*members: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*members).map(lambda parts: {key: value for part in parts for key, value in part.items()})


def keyword(name: str, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A schema of one keyword."""
    return strategy.map(lambda value: {name: value})


leaves = st.one_of(
    keyword("type", types),
    keyword("type", st.lists(types, min_size=1, max_size=3, unique=True)),
    keyword("const", scalars),
    keyword("enum", st.lists(scalars, min_size=1, max_size=3)),
    keyword("minimum", st.sampled_from(NUMBERS)),
    keyword("exclusiveMaximum", st.sampled_from(NUMBERS)),
    keyword("minLength", st.integers(0, 3)),
    keyword("maxLength", st.integers(0, 3)),
    keyword("pattern", st.sampled_from(("^a", "b$", "^[a-c]*$", "-"))),
    keyword("minItems", st.integers(0, 3)),
    keyword("maxItems", st.integers(0, 3)),
    keyword("required", st.lists(st.sampled_from(KEYS), max_size=2, unique=True)),
    st.just({}),
)


def _compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties = st.dictionaries(st.sampled_from(KEYS), inner, min_size=1, max_size=2)
    return st.one_of(
        keyword("properties", properties),
        _object(keyword("properties", properties), keyword("additionalProperties", st.booleans())),
        _object(
            st.just({"type": "object"}),
            keyword("properties", properties),
            keyword("required", st.lists(st.sampled_from(KEYS), max_size=2, unique=True)),
        ),
        keyword("items", inner),
        keyword("anyOf", st.lists(inner, min_size=1, max_size=2)),
        keyword("allOf", st.lists(inner, min_size=1, max_size=2)),
    )


schemas = st.recursive(leaves, _compound, max_leaves=4)
objects = st.one_of(
    st.just({}),
    st.just({"type": "object"}),
    _object(
        st.just({"type": "object"}),
        keyword("properties", st.dictionaries(st.sampled_from(KEYS), leaves, min_size=1, max_size=3)),
        st.one_of(st.just({}), keyword("additionalProperties", st.one_of(st.booleans(), leaves))),
        st.one_of(st.just({}), keyword("required", st.lists(st.sampled_from(KEYS), max_size=2, unique=True))),
    ),
)
