"""Answers that must be complete, under the worst models: random ones, and ones that talk without end."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from llguidance import LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.generation import Grammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.constraint import Constraint
from guidance_core.guidance.batch import GuidanceBatch

SCHEMAS: dict[str, dict[str, Any]] = {
    "required and optional keys": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "notes": {"type": "object", "properties": {"by": {"type": "string"}}, "required": ["by"]},
            "price": {"type": "number", "minimum": 12, "maximum": 5000},
            "tags": {"type": "array", "items": {"enum": ["paper", "pencil", "pen"]}, "minItems": 2},
        },
        "required": ["name", "tags"],
        "additionalProperties": False,
    },
    "patterns, formats and lengths": {
        "type": "object",
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "mail": {"type": "string", "pattern": "^[a-z]{2,20}@[a-z]+[.](com|org)$"},
            "motto": {"type": "string", "minLength": 25},
            "day": {"type": "string", "format": "date"},
        },
        "required": ["mail"],
        "additionalProperties": {"type": "integer"},
    },
    "a tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "label": {"type": "string", "minLength": 1},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["label", "children"],
                "additionalProperties": False,
            }
        },
    },
    "branches of very different lengths": {
        "anyOf": [
            {"type": "null"},
            {"type": "array", "items": {"type": "array", "minItems": 3}, "minItems": 3},
            {
                "allOf": [
                    {"type": "object", "minProperties": 1},
                    {"required": ["a"], "properties": {"a": {"const": 12}}},
                ]
            },
        ]
    },
    "anything": {},
}
PATTERNS = [
    "[0-9]{3}-[0-9]{4}",
    "(yes|no|perhaps), (said|wrote) [A-Z][a-z]+[.]",
    "[a-z]+",
    "[^x]*x[0-9a-f]{8}",
    "é{3,}|(中文)+🙂",
]
LARK = r"""
start: sum
sum: term (("+" | "-") term)*
term: NUMBER | "(" sum ")"
NUMBER: /[0-9]{2,9}/
"""
MODELS = ["random", "talkative", "hasty"]


class Walk:
    """Answers with tokens drawn from the masks, as a batch of one would.

    Attributes:
        replaced: how many tokens were not taken as they were drawn.
    """

    def __init__(self, tokenizer: LLTokenizer, batch: GuidanceBatch, seed: int) -> None:
        self.replaced = 0
        self._tokenizer = tokenizer
        self._batch = batch
        self._random = random.Random(seed)
        self._next_id = 0
        self._lengths = np.array([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])
        closing = {b"}", b"]", b'"', b")", b"."}
        self._closing = [t for t in range(tokenizer.vocab_size) if tokenizer.decode_bytes([t]) in closing]

    def answer(self, grammar: Grammar, model: str, max_tokens: int, stop_token_ids: tuple[int, ...] = ()) -> bytes:
        """A whole answer; fails where it is not complete after ``max_tokens``."""
        batch, sequence_id = self._batch, self._next_id
        self._next_id += 1
        batch.add(sequence_id, grammar)
        batch.complete(sequence_id, grammar, max_tokens=max_tokens, stop_token_ids=stop_token_ids)
        commit = batch.start(sequence_id)
        answer = list(commit.forced)
        while not commit.stopped:
            assert len(answer) < max_tokens, self._tokenizer.decode_str(answer)
            logits = torch.zeros(1, self._tokenizer.vocab_size)
            batch.begin([(0, sequence_id)])
            batch.apply(logits)
            drawn = self._draw(np.flatnonzero(logits[0].isfinite().numpy()), model)
            [token] = batch.settle([0], [drawn])
            self.replaced += token != drawn
            commit = batch.commit([(sequence_id, token)])[sequence_id]
            assert commit.error is None
            if token == 0:
                assert commit.accepting
                break
            answer += [token, *commit.forced]
        batch.remove(sequence_id)
        return self._tokenizer.decode_bytes(answer)

    def _draw(self, allowed: np.ndarray[Any, Any], model: str) -> int:
        others = allowed[allowed != 0]
        if model == "talkative" and len(others):
            lengths = self._lengths[others]
            allowed = others[lengths >= lengths.max() - 1]
        elif model == "hasty" and self._random.random() < 0.4:
            closing = np.intersect1d(allowed, self._closing)
            allowed = closing if len(closing) else allowed
        return int(self._random.choice(allowed))


@pytest.fixture(scope="module")
def batch(ll_tokenizer: LLTokenizer) -> Iterator[GuidanceBatch]:
    batch = GuidanceBatch(
        ll_tokenizer, vocab_size=ll_tokenizer.vocab_size, max_rows=4, settings=GuidanceSettings(threads=1)
    )
    yield batch
    batch.close()


@pytest.fixture
def walk(ll_tokenizer: LLTokenizer, batch: GuidanceBatch) -> Walk:
    return Walk(ll_tokenizer, batch, seed=0)


@pytest.fixture(scope="module")
def grammar(ll_tokenizer: LLTokenizer) -> Callable[[Constraint], Grammar]:
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    return lambda what: asyncio.run(compiler.compile(what)).grammar


def shortest(batch: GuidanceBatch, grammar: Grammar) -> int:
    """What the refusal of a budget that is too small says is needed."""
    batch.add(10**6, grammar)
    with pytest.raises(InvalidRequest, match=r"takes [0-9]+ tokens") as refusal:
        batch.complete(10**6, grammar, max_tokens=0)
    batch.remove(10**6)
    assert refusal.value.param == "max_tokens"
    found = re.search("takes ([0-9]+) tokens", refusal.value.message)
    assert found is not None
    return int(found.group(1))


def budgets(least: int) -> list[int]:
    return [least, least + 1, int(least * 1.1) + 2, int(least * 1.5), 3 * least]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_under_a_schema_is_complete_and_valid_within_any_budget_that_is_not_refused(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch, walk: Walk, name: str, model: str
) -> None:
    compiled = grammar(constraint.json_schema(SCHEMAS[name]))
    validator = Draft202012Validator(SCHEMAS[name])
    for max_tokens in budgets(shortest(batch, compiled)):
        for _ in range(3):
            validator.validate(json.loads(walk.answer(compiled, model, max_tokens)))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_answer_under_a_regex_is_complete_within_any_budget_that_is_not_refused(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch, walk: Walk, pattern: str, model: str
) -> None:
    compiled = grammar(constraint.regex(pattern))
    for max_tokens in budgets(shortest(batch, compiled)):
        for _ in range(3):
            text = walk.answer(compiled, model, max_tokens).decode()
            assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_under_a_context_free_grammar_closes_what_it_opened(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch, walk: Walk, model: str
) -> None:
    compiled = grammar(constraint.lark(LARK))
    for max_tokens in [*budgets(shortest(batch, compiled)), 40]:
        text = walk.answer(compiled, model, max_tokens).decode()
        assert text.count("(") == text.count(")")
        assert text[-1] in "0123456789)"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('start: "<" body ">"\nbody[max_tokens=3]: /[a-z]+/', "<[a-z]+>"),
        ('start: body " done"\nbody[lazy]: /[a-z ]*;/', "[a-z ]*; done"),
        ('start: body "!"\nbody[suffix=";"]: /[a-z]*/', "[a-z]*;!"),
        ('start: BODY <|user|> "!"\nBODY: /[a-z;"]+/', r"[a-z;\"]+<\|user\|>!"),
    ],
)
def test_an_answer_under_a_grammar_with_options_of_llguidance_is_complete(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch, walk: Walk, model: str, text: str, pattern: str
) -> None:
    compiled = grammar(constraint.lark(f"%llguidance {{}}\n{text}"))
    for max_tokens in [*budgets(shortest(batch, compiled)), 30]:
        for _ in range(3):
            assert re.fullmatch(pattern, walk.answer(compiled, model, max_tokens).decode())


def test_a_choice_that_does_not_fit_is_not_begun(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch, walk: Walk
) -> None:
    options = ["perhaps, or perhaps never", "perhaps not", "yes"]
    compiled = grammar(constraint.choice(options))
    least = shortest(batch, compiled)
    assert {walk.answer(compiled, "random", least) for _ in range(10)} == {b"yes"}
    assert {walk.answer(compiled, "random", 60).decode() for _ in range(60)} == set(options)


@pytest.mark.parametrize("name", SCHEMAS)
def test_where_tokens_are_to_spare_nothing_is_replaced(
    grammar: Callable[[Constraint], Grammar], walk: Walk, name: str
) -> None:
    compiled = grammar(constraint.json_schema(SCHEMAS[name]))
    for _ in range(4):
        walk.answer(compiled, "hasty", 2_000)
    assert walk.replaced == 0


def test_a_budget_that_is_too_small_is_refused_by_how_much_it_needs(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch, walk: Walk
) -> None:
    compiled = grammar(constraint.regex("(q|j){12}"))
    assert len(walk.answer(compiled, "talkative", shortest(batch, compiled))) == 12
    batch.add(0, compiled)
    with pytest.raises(InvalidRequest, match=r"max_tokens is 3, .* takes 12 tokens .* set it to 12 or more"):
        batch.complete(0, compiled, max_tokens=3)


def test_an_end_token_is_counted_only_where_one_is_needed(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch
) -> None:
    assert shortest(batch, grammar(constraint.regex("q{2}"))) == 2
    assert shortest(batch, grammar(constraint.regex("q{2,}"))) == 3


def test_a_grammar_whose_end_is_not_found_is_refused(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch
) -> None:
    compiled = grammar(constraint.lark("start: /[qj]{5000}/"))
    batch.add(0, compiled)
    with pytest.raises(Unsupported, match="no complete answer was found") as refusal:
        batch.complete(0, compiled, max_tokens=100_000)
    assert refusal.value.param == "fit_to_max_tokens"


def test_a_stop_token_ends_no_answer_before_its_time(
    grammar: Callable[[Constraint], Grammar], batch: GuidanceBatch, walk: Walk, ll_tokenizer: LLTokenizer
) -> None:
    compiled = grammar(constraint.regex("[qj]{1,9}!"))
    [mark] = ll_tokenizer.tokenize_str("!")
    letter = walk.answer(compiled, "random", 2).decode()[0]
    [needed_letter], [other] = (ll_tokenizer.tokenize_str(text) for text in (letter, {"q": "j", "j": "q"}[letter]))
    batch.add(0, compiled)
    for needed in (needed_letter, mark):
        with pytest.raises(InvalidRequest, match=f"stop_token_ids has {needed},") as refusal:
            batch.complete(0, compiled, max_tokens=9, stop_token_ids=(needed,))
        assert refusal.value.param == "stop_token_ids"
    answers = {walk.answer(compiled, "random", 5, (other,)) for _ in range(20)}
    assert len(answers) > 1
    assert answers <= {letter.encode() * count + b"!" for count in range(1, 5)}
