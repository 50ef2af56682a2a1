"""An ending that fits, over the corpus of schemas that ``GUIDED_TRTLLM_SCHEMAS`` names, as `test_corpus` reads it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, validators
from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import InvalidGrammar, InvalidRequest
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.guidance.batch import GuidanceBatch
from guidance_core.guidance.shortest import walk
from tests.guidance.test_ending import MODELS, Walk, shortest

CORPUS = os.environ.get("GUIDED_TRTLLM_SCHEMAS")

pytestmark = pytest.mark.skipif(CORPUS is None, reason="GUIDED_TRTLLM_SCHEMAS names no file of schemas")


def test_every_answer_is_complete_and_valid_from_little_more_than_the_shortest_instance_up(
    ll_tokenizer: LLTokenizer,
) -> None:
    batch = GuidanceBatch(
        ll_tokenizer, vocab_size=ll_tokenizer.vocab_size, max_rows=1, settings=GuidanceSettings(threads=1)
    )
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    walker = Walk(ll_tokenizer, batch, seed=0)
    answers, failed = 0, []
    for line in Path(str(CORPUS)).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        try:
            grammar = asyncio.run(compiler.compile(constraint.json_schema(entry["schema"]))).grammar
        except InvalidGrammar:
            continue
        kind = validators.validator_for(entry["schema"], default=Draft202012Validator)
        validator = kind(entry["schema"], format_checker=kind.FORMAT_CHECKER)
        least = min([shortest(batch, grammar), *_instances(entry, grammar.source, ll_tokenizer)])
        for max_tokens in (int(1.1 * least), int(1.5 * least), 3 * least):
            for model in MODELS:
                answers += 1
                try:
                    value = json.loads(walker.answer(grammar, model, max_tokens))
                except (InvalidRequest, AssertionError, ValueError) as error:
                    failed.append((entry["name"], max_tokens, model, str(error)[:200]))
                    continue
                # On this route the grammar is wider than the schema, and answers are checked afterwards.
                if grammar.route != "checked" and not validator.is_valid(value):
                    failed.append((entry["name"], max_tokens, model, json.dumps(value)[:200]))
    batch.close()
    compiler.close()
    assert failed == []
    assert answers > 1_000


def _instances(entry: dict[str, Any], source: str, tokenizer: LLTokenizer) -> list[int]:
    """What the valid instances that come with a schema take, in tokens."""
    matcher = LLMatcher(tokenizer, source, log_level=0)
    texts = [
        json.dumps(test["data"], ensure_ascii=False, separators=separators).encode()
        for test in entry["tests"]
        for separators in ((",", ":"), (", ", ": "))
        if test["valid"]
    ]
    ways = [walk(matcher, tokenizer.tokenize_bytes(text)) for text in texts]
    return [way.cost for way in ways if way is not None]
