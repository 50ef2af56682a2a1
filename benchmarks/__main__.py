"""`python -m benchmarks`: measure the service, its bare executor and the yardstick on this machine, and report.

Rounds are interleaved, so that what else the machine does meets all contenders alike; figures are medians over rounds.
Read ratios: absolute figures drift with the machine's load.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
from collections import defaultdict
from itertools import islice
from pathlib import Path

from benchmarks import bare, served, workload, yardstick
from benchmarks.agreement import compare
from benchmarks.contender import Contender
from benchmarks.plot import draw
from benchmarks.report import AddedTime, Report, Row
from benchmarks.streams import Figures, median_of, summarize
from guidance_core.model_store import resolve

OUT = Path(__file__).parent / "out"


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="tag in the Bento model store")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32], help="numbers of simultaneous streams")
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians over these")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for report.json and report.png")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few streams, few tokens, one round")
    options = parser.parse_args()
    if options.quick:
        options.streams, options.new_tokens, options.rounds = [1, 4], 16, 1
    return options


async def measure(options: argparse.Namespace) -> Report:
    """Run everything; being terminated stops the server too."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    model = resolve(options.model)
    settings = {
        "model": model.tag,
        **{name: value for name, value in vars(options).items() if name not in ("model", "out", "quick")},
    }
    report = Report(settings)
    prompts = workload.distinct_prompts(model.path, options.prompt_tokens)
    environment = {
        "GUIDED_TRTLLM_MODEL__TAG": model.tag,
        "GUIDED_TRTLLM_TORCH__DTYPE": options.dtype,
        "GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE": str(max(options.streams)),
    }
    print(f"Starting the service, the executor and transformers with {model.tag}", flush=True)
    async with (
        yardstick.start(model.path, options.dtype) as transformers,
        bare.start(model.path, environment) as executor,
        bare.start(model.path, environment, forced_tokens=False) as unforced,
        served.serve(model.name, environment) as service,
    ):
        contenders: list[tuple[Contender, bool]] = [
            (transformers, False),
            (executor, False),
            (executor, True),
            (unforced, False),
            (unforced, True),
            (service, False),
            (service, True),
        ]
        rounds: dict[tuple[str, bool, int], list[Figures]] = defaultdict(list)
        for number in range(options.rounds + 1):
            # The first round only warms up.
            for streams in options.streams if number else [max(options.streams)]:
                for contender, constrained in contenders:
                    asked = list(islice(prompts, streams))
                    answers = await contender.run(asked, options.new_tokens, constrained=constrained)
                    figures = summarize(answers)
                    _say_progress(number, options.rounds, contender.name, constrained, streams, figures)
                    if number:
                        rounds[contender.name, constrained, streams].append(figures)
        report.rows = [Row(*key, median_of(figures)) for key, figures in sorted(rounds.items())]
        report.added = added_time(rounds)

        questions = workload.chat_prompts(model.path)
        references = await transformers.generate(questions, options.new_tokens)
        report.agreement = compare(await executor.answer(questions, options.new_tokens), references)
    return report


def added_time(rounds: dict[tuple[str, bool, int], list[Figures]]) -> list[AddedTime]:
    """What the schema added, of each contender that answered both free and constrained.

    Args:
        rounds: figures of each round by (contender, constrained, streams).
    """
    added = []
    for (contender, constrained, streams), figures in sorted(rounds.items()):
        free = rounds.get((contender, False, streams))
        if constrained and free:
            shares = [of.per_token_ms / without.per_token_ms - 1 for of, without in zip(figures, free, strict=True)]
            added.append(AddedTime(contender, streams, statistics.median(shares)))
    return added


def _say_progress(number: int, rounds: int, name: str, constrained: bool, streams: int, figures: Figures) -> None:
    when = f"round {number} of {rounds}" if number else "warming up"
    answer = "schema" if constrained else "free"
    print(f"{when}: {name}, {answer}, {streams} streams: {figures.tokens_per_second:.0f} tokens/s", flush=True)


def main() -> None:
    """Measure, print, write."""
    options = parse_options()
    report = asyncio.run(measure(options))
    print(f"\n{report.table()}")
    report.write(options.out / "report.json")
    draw(report, options.out / "report.png")
    print(f"\nWritten: {options.out / 'report.json'}, {options.out / 'report.png'}")


if __name__ == "__main__":
    main()
