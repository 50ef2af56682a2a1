"""`python -m benchmarks.masks`: what compiling and masks cost over a corpus of JSON schemas, beside other engines.

``GUIDED_TRTLLM_SCHEMAS`` names the corpus: a file with one JSON object a line, with ``name``, ``schema``, and ``tests``
of ``data`` and whether it is ``valid``, as JSONSchemaBench has them (https://github.com/guidance-ai/jsonschemabench).
Every engine walks every instance token by token on one thread; engines take turns, schema by schema, so that what else
the machine does meets all alike. XGrammar and outlines-core take part where they are installed:
``pip install --no-deps xgrammar apache-tvm-ffi outlines-core``.
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from benchmarks.masks import table
from benchmarks.masks.engines import ENGINES, installed
from benchmarks.masks.runner import Runner
from benchmarks.masks.walk import Walk
from benchmarks.report import describe_machine
from guidance_core.model_store import resolve

OUT = Path(__file__).parent.parent / "out"


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masks", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="tag in the Bento model store")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=installed())
    parser.add_argument("--seconds", type=float, default=10, help="most time for one schema and one engine")
    parser.add_argument("--limit", type=int, help="only so many schemas, spread over the corpus")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for masks.json and masks.md")
    return parser.parse_args()


def measure(options: argparse.Namespace, entries: list[dict[str, Any]]) -> dict[str, list[Walk]]:
    """Every schema through every engine."""
    model = resolve(options.model)
    config = AutoConfig.from_pretrained(model.path)
    eos = config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0]
    walks: dict[str, list[Walk]] = {name: [] for name in options.engines}
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(closing(Runner(name, model.path, config.vocab_size, eos, options.seconds)))
            for name in options.engines
        }
        warm = entries[0]
        for runner in runners.values():
            runner.walk(warm)
        for number, entry in enumerate(entries):
            for name, runner in runners.items():
                walks[name].append(runner.walk(entry))
            if number % 50 == 49:
                print(f"{number + 1} of {len(entries)} schemas", flush=True)
    return walks


def main() -> None:
    """Measure, print, write."""
    options = parse_options()
    corpus = os.environ.get("GUIDED_TRTLLM_SCHEMAS")
    if corpus is None:
        raise SystemExit("GUIDED_TRTLLM_SCHEMAS names no file of schemas; python -m benchmarks.masks --help says more.")
    entries = [json.loads(line) for line in Path(corpus).read_text(encoding="utf-8").splitlines()]
    if options.limit:
        entries = entries[:: max(1, len(entries) // options.limit)][: options.limit]
    walks = measure(options, entries)
    shared = table.common(walks)
    parts = [table.coverage(walks), "\nEach engine over what it compiled:\n"]
    parts.append(table.costs(walks, [entry["name"] for entry in entries]))
    parts += [f"\nOver the {len(shared)} schemas that all of them compiled:\n", table.costs(walks, shared)]
    ours = [walk for done in walks.values() for walk in done if walk.compile_again is not None]
    if ours:
        first = [1e3 * (walk.first_matcher or 0) for walk in ours]
        again = [1e6 * (walk.compile_again or 0) for walk in ours]
        parts += [
            f"\nguided-trtllm compiles a new schema once more, in the executor's process: p50 "
            f"{table.quantile(first, 0.5):.2f} ms, p99 {table.quantile(first, 0.99):.2f} ms.",
            f"A schema that comes again, to its matcher: p50 {table.quantile(again, 0.5):.0f} µs, "
            f"p99 {table.quantile(again, 0.99):.0f} µs.",
        ]
    report = "\n".join(parts)
    print(f"\n{report}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "masks.md").write_text(report + "\n", encoding="utf-8")
    record = {"machine": describe_machine(), "walks": {name: [asdict(w) for w in done] for name, done in walks.items()}}
    (options.out / "masks.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
