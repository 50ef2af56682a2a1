"""A terminal that forces text without end would hold up all that runs; the test is in a process that can be ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_WALK = """
import asyncio, sys
from pathlib import Path
from guidance_core.config import GuidanceSettings
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.guidance.batch import GuidanceBatch
tokenizer = load_ll_tokenizer(Path(sys.argv[1]), None, [0])
grammar = asyncio.run(GrammarCompiler(tokenizer, GuidanceSettings()).compile(constraint.lark(sys.argv[2]))).grammar
batch = GuidanceBatch(tokenizer, vocab_size=tokenizer.vocab_size, max_rows=1, settings=GuidanceSettings(threads=1))
batch.add(1, grammar)
batch.start(1)
for token in tokenizer.tokenize_bytes(b"xaaa"):
    assert batch.commit([(1, token)])[1].error is None
"""


def test_what_is_forced_without_end_holds_nothing_up(tokenizer_folder: Path) -> None:
    grammar = 'start: ("x" | "y") A "ab"\nA: /a+/'
    subprocess.run([sys.executable, "-c", _WALK, str(tokenizer_folder), grammar], timeout=60, check=True)
