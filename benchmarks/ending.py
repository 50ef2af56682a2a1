"""`python -m benchmarks.ending`: what an ending that fits costs, per step of a batch, without any model.

Every stream writes the same document, token by token as a model would, through a `GuidanceBatch`, with and without
the promise to be complete; then with a budget that has no token to spare, where whatever the model wants is drawn from
the mask. It runs on the CPU, where a step asks about the tokens that were chosen: only with the promise that takes a
mask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field

import torch
from llguidance import LLMatcher

from guidance_core.config import GuidanceSettings
from guidance_core.generation import Grammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.guidance.batch import GuidanceBatch
from guidance_core.guidance.shortest import shortest_answer
from guidance_core.guidance.vocabulary import Vocabulary
from guidance_core.model_store import resolve

SCHEMA = {
    "type": "object",
    "properties": {
        "customer": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "email": {"type": "string", "pattern": "^[a-z.]+@[a-z.]+$"}},
            "required": ["name", "email"],
        },
        "notes": {"type": "string"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
                    "count": {"type": "integer", "minimum": 1},
                    "gift": {"type": "boolean"},
                },
                "required": ["sku", "count"],
            },
            "minItems": 1,
        },
    },
    "required": ["customer", "items"],
}
DOCUMENT = {
    "customer": {"name": "Ada Lovelace", "email": "ada@analytical.engine"},
    "notes": "Leave it with the neighbours if nobody is at home; the bell does not ring, so please knock.",
    "items": [{"sku": f"AB-{1000 + 17 * i}", "count": i + 1, "gift": i % 2 == 0} for i in range(8)],
}


@dataclass
class Times:
    """Seconds of each step's parts, the whole batch together."""

    masks: list[float] = field(default_factory=list)
    settling: list[float] = field(default_factory=list)
    committing: list[float] = field(default_factory=list)

    def row(self, name: str, streams: int) -> str:
        """Means, and what a step and a stream's token cost beyond the masks."""
        parts = [1e6 * statistics.fmean(part) for part in (self.masks, self.settling, self.committing)]
        worst = 1e6 * sorted(self.settling)[int(0.99 * len(self.settling))]
        per_token = (parts[1] + parts[2]) / streams
        return (
            f"| {streams} | {name} | {parts[0]:.0f} | {parts[1]:.0f} | {worst:.0f} | {parts[2]:.0f} | {per_token:.1f} |"
        )


class Streams:
    """Sequences that run together, and what their steps take."""

    def __init__(
        self, batch: GuidanceBatch, grammar: Grammar, count: int, max_tokens: int | None, vocab_size: int
    ) -> None:
        self._batch = batch
        self._vocab_size = vocab_size
        self.running = list(range(count))
        self.written = [0] * count
        for stream in self.running:
            batch.add(stream, grammar)
            if max_tokens is not None:
                batch.complete(stream, grammar, max_tokens=max_tokens)
            self.written[stream] = len(batch.start(stream).forced)

    def step(self, times: Times, wanted: list[int] | None, draw: random.Random) -> None:
        """One step of those that run: each wants the document's next token, or one drawn from its mask."""
        batch, running = self._batch, self.running
        logits = torch.zeros(len(running), self._vocab_size if wanted is None else 0)
        tokens = [] if wanted is None else [wanted[self.written[stream]] for stream in running]
        start = time.perf_counter()
        batch.begin(list(enumerate(running)))
        if wanted is None:
            batch.apply(logits)
        else:
            batch.allows(tokens)
        times.masks.append(time.perf_counter() - start)
        if wanted is None:
            tokens = [draw.choice(row.isfinite().nonzero()[:, 0].tolist()) for row in logits]
        start = time.perf_counter()
        tokens = batch.settle(range(len(running)), tokens)
        times.settling.append(time.perf_counter() - start)
        start = time.perf_counter()
        commits = batch.commit(list(zip(running, tokens, strict=True)))
        times.committing.append(time.perf_counter() - start)
        for stream in list(running):
            self.written[stream] += 1 + len(commits[stream].forced)
            if commits[stream].stopped:
                running.remove(stream)
                batch.remove(stream)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ending", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="tag in the Bento model store")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = resolve(options.model).path
    config = json.loads((path / "config.json").read_text())
    tokenizer = load_ll_tokenizer(path, config["vocab_size"], [config["eos_token_id"]])
    settings = GuidanceSettings(forced_tokens=False, threads=1)
    grammar = asyncio.run(GrammarCompiler(tokenizer, settings).compile(constraint.json_schema(SCHEMA))).grammar
    document = tokenizer.tokenize_str(json.dumps(DOCUMENT))
    batch = GuidanceBatch(tokenizer, vocab_size=config["vocab_size"], max_rows=max(options.streams), settings=settings)
    start = time.perf_counter()
    vocabulary = Vocabulary(tokenizer, config["vocab_size"])
    vocabulary.index()
    indexed = time.perf_counter()
    least = shortest_answer(LLMatcher(tokenizer, grammar.source, log_level=0), grammar, vocabulary)
    assert least is not None
    print(f"Indexing {len(vocabulary.ids)} tokens, once: {1e3 * (indexed - start):.0f} ms.")
    print(f"Finding a shortest answer, once a grammar: {1e3 * (time.perf_counter() - indexed):.1f} ms.")
    print(f"The document has {len(document)} tokens, the shortest answer {least.cost}.\n")
    print("| streams | budget | masks µs | settle µs | settle p99 µs | commit µs | settle + commit µs a token |")
    print("|---|---|---|---|---|---|---|")
    draw = random.Random(0)
    for count in options.streams:
        budgets = {
            "none": (None, document),
            "3 × the document": (3 * len(document), document),
            "none to spare": (least.cost, None),
        }
        measured = {name: Times() for name in budgets}
        for _ in range(options.rounds):
            for name, (max_tokens, wanted) in budgets.items():
                streams = Streams(batch, grammar, count, max_tokens, vocabulary.size)
                while len(streams.running) == count:
                    streams.step(measured[name], wanted, draw)
                for stream in streams.running:
                    batch.remove(stream)
        for name, times in measured.items():
            print(times.row(name, count))
    batch.close()


if __name__ == "__main__":
    main()
