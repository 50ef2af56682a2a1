"""The promise over JSON Schema's own tests: what they call invalid is never answered.

``GUIDED_TRTLLM_SCHEMA_SUITE`` names a checkout of https://github.com/json-schema-org/JSON-Schema-Test-Suite. With
pytest's ``-s`` the figures of each draft are printed.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLTokenizer

from guidance_core.api.checking import satisfies
from guidance_core.config import GuidanceSettings
from guidance_core.errors import InvalidGrammar
from guidance_core.generation import Grammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from tests.grammar.spelling import spelled

SUITE = os.environ.get("GUIDED_TRTLLM_SCHEMA_SUITE")
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
ANNOTATIONS = {"contentEncoding", "contentMediaType"}
"""Keywords that constrain nothing, though optional tests of draft 7 would have it."""

pytestmark = pytest.mark.skipif(SUITE is None, reason="GUIDED_TRTLLM_SCHEMA_SUITE names no checkout of the suite")


def cases(draft: str) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """Where each schema is from, the schema, and its tests."""
    folder = Path(str(SUITE)) / "tests" / draft
    for path in sorted(folder.rglob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            schema = case["schema"]
            if isinstance(schema, dict):
                schema = {"$schema": DRAFTS[draft]} | schema
            yield f"{path.relative_to(folder)}: {case['description']}", schema, case["tests"]


def is_answered(compiler: GrammarCompiler, tokenizer: LLTokenizer, grammar: Grammar, value: Any) -> bool:
    """Whether a value could be an answer, with its keys in some order."""
    texts = [json.dumps(value, ensure_ascii=False, separators=layout) for layout in ((",", ":"), (", ", ": "))]
    # 1.0 would be spelled as 1, which draft 4 tells apart.
    spelling = None if isinstance(value, float) else spelled(tokenizer, grammar.source, value)
    return any(
        compiler.accepts(grammar, text.encode()) and satisfies(grammar, text) is None
        for text in (*texts, *([] if spelling is None else [spelling]))
    )


@pytest.mark.parametrize("draft", DRAFTS)
def test_what_the_suite_calls_invalid_is_not_answered(draft: str, ll_tokenizer: LLTokenizer) -> None:
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    figures: Counter[str] = Counter()
    wrong = []
    for name, schema, tests in cases(draft):
        figures["schemas"] += 1
        try:
            grammar = asyncio.run(compiler.compile(constraint.json_schema(schema))).grammar
        except InvalidGrammar:
            figures["refused"] += 1
            continue
        figures[grammar.route] += 1
        for test in tests:
            figures["valid" if test["valid"] else "invalid"] += 1
            answered = is_answered(compiler, ll_tokenizer, grammar, test["data"])
            if answered and not test["valid"] and ANNOTATIONS.isdisjoint(schema):
                wrong.append((name, test["description"]))
            figures["valid, rejected"] += test["valid"] and not answered
    compiler.close()
    print(draft, dict(figures))
    assert wrong == []
    assert figures["refused"] <= 0.12 * figures["schemas"]
    assert figures["valid, rejected"] <= 0.07 * figures["valid"]
