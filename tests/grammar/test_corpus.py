"""The promise over a corpus of schemas: none is accepted and then not kept.

``GUIDED_TRTLLM_SCHEMAS`` names a file with one JSON object a line: ``name``, ``schema``, and ``tests`` with ``data``
and whether it is ``valid``. Schemas of JSONSchemaBench (https://github.com/guidance-ai/jsonschemabench) have this form.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, validators
from llguidance import LLMatcher, LLTokenizer

from guidance_core.api.checking import satisfies
from guidance_core.config import GuidanceSettings
from guidance_core.errors import InvalidGrammar
from guidance_core.generation import Grammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from tests.grammar.spelling import spelled
from tests.grammar.walks import Walker

CORPUS = os.environ.get("GUIDED_TRTLLM_SCHEMAS")
LAYOUTS: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4}]

pytestmark = pytest.mark.skipif(CORPUS is None, reason="GUIDED_TRTLLM_SCHEMAS names no file of schemas")


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    """Every schema with its tests."""
    with Path(str(CORPUS)).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def compiled(entries: list[dict[str, Any]], ll_tokenizer: LLTokenizer) -> Iterator[dict[str, Grammar | InvalidGrammar]]:
    """What became of each schema, by name."""
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())

    async def compile_one(schema: Any) -> Grammar | InvalidGrammar:
        try:
            return (await compiler.compile(constraint.json_schema(schema), param="schema")).grammar
        except InvalidGrammar as refusal:
            return refusal

    async def compile_all() -> dict[str, Grammar | InvalidGrammar]:
        return {entry["name"]: await compile_one(entry["schema"]) for entry in entries}

    yield asyncio.run(compile_all())
    compiler.close()


def test_every_schema_compiles_or_is_refused_with_a_reason(
    entries: list[dict[str, Any]], compiled: dict[str, Grammar | InvalidGrammar]
) -> None:
    refusals = [outcome for outcome in compiled.values() if isinstance(outcome, InvalidGrammar)]
    assert all(len(refusal.message) > 20 and refusal.param == "schema" for refusal in refusals)
    assert len(refusals) <= 0.03 * len(entries)
    grammars = [outcome for outcome in compiled.values() if isinstance(outcome, Grammar)]
    assert all((grammar.route == "exact") == (not grammar.notes) for grammar in grammars)
    assert all((grammar.route == "checked") == (grammar.check is not None) for grammar in grammars)


def test_valid_instances_are_accepted_and_invalid_ones_are_not(
    entries: list[dict[str, Any]], compiled: dict[str, Grammar | InvalidGrammar], ll_tokenizer: LLTokenizer
) -> None:
    wrong = []
    for entry in entries:
        grammar = compiled[entry["name"]]
        if isinstance(grammar, InvalidGrammar):
            continue
        start = LLMatcher(ll_tokenizer, grammar.source, log_level=0)
        for test in entry["tests"]:
            if grammar.route != "exact":
                # Keys in the order that the grammar gives them: rewriting may put what it adds last.
                attempts = 500_000 if test["valid"] else 5_000
                spelling = spelled(ll_tokenizer, grammar.source, test["data"], most_attempts=attempts)
                if (spelling is not None and satisfies(grammar, spelling) is None) != test["valid"]:
                    wrong.append((entry["name"], "spelled", test["valid"], str(test["data"])[:200]))
                continue
            for layout in LAYOUTS:
                # \u escapes of printable characters are not accepted everywhere, as llguidance documents.
                text = json.dumps(test["data"], ensure_ascii=False, **layout)
                tokens = ll_tokenizer.tokenize_bytes(text.encode())
                matcher = start.deep_copy()
                accepted = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
                if accepted != test["valid"]:
                    wrong.append((entry["name"], layout, test["valid"], text[:200]))
    assert wrong == []


def test_random_answers_validate(
    entries: list[dict[str, Any]], compiled: dict[str, Grammar | InvalidGrammar], ll_tokenizer: LLTokenizer
) -> None:
    walker = Walker(ll_tokenizer, seed=0)
    complete, wrong = 0, []
    for entry in entries:
        grammar = compiled[entry["name"]]
        if isinstance(grammar, InvalidGrammar):
            continue
        kind = validators.validator_for(entry["schema"], default=Draft202012Validator)
        validator = kind(entry["schema"], format_checker=kind.FORMAT_CHECKER)
        for _ in range(2):
            answer = walker.walk(grammar.source)
            if answer is not None and satisfies(grammar, answer.decode()) is None:
                complete += 1
                error = next(validator.iter_errors(json.loads(answer)), None)
                if error is not None:
                    wrong.append((entry["name"], error.message[:200], answer[:200]))
    assert wrong == []
    assert complete > 0.5 * len(entries)
