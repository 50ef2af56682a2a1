"""`python -m benchmarks.forced`: what forced tokens save on a form with long names, on the bare executor.

Rounds of documents are written with forced tokens and without, alternately, each to the end of the form. A new
document begins as soon as one ends, so the number of streams is constant, and time is taken only while it is: from when
as many documents have ended as there are streams, to the first end that no new document follows. Wall time per document
is that time by the documents that ended in it: how a batch fills at first and drains at last is in neither side's.

Besides the times it counts how many answers have the same text and the same tokens either way: all in float32; in half
precision one token in a pass rounds otherwise than several, and near ties fall otherwise. It also counts the answers
that have the tokens which the model's own tokenizer makes of their text, and of the others those that depart from them
at a forced token.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from transformers import AutoTokenizer

from benchmarks import bare, workload
from benchmarks.bare import Bare
from benchmarks.streams import Stream
from guidance_core.model_store import resolve

LONGEST_ANSWER = 512

_DOCUMENTS = 16
_DOCUMENTS_OF_A_STREAM = 4
"""A round has at least so many documents, and of each stream so many: the first and the last are not timed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Answers to the same questions with forced tokens and without.

    Attributes:
        streams: how many at once.
        forced_ms, unforced_ms: wall time per document of a round, median over rounds.
        speedup: of the rounds, median.
        forced_share: share of the tokens that were forced.
        documents: how many complete ones each way.
        same_text, same_tokens: how many of them were equal.
        canonical, canonical_unforced: how many had the tokens that the tokenizer makes of their text.
        departed_by_force: how many others, with forced tokens, first departed from the tokenizer's at a forced one.
    """

    streams: int
    forced_ms: float
    unforced_ms: float
    speedup: float
    forced_share: float
    documents: int
    same_text: int
    same_tokens: int
    canonical: int
    canonical_unforced: int
    departed_by_force: int

    def line(self) -> str:
        """One line for the eye."""
        return (
            f"{self.streams:>3} streams: {self.forced_ms:.0f} ms per document with forced tokens, "
            f"{self.unforced_ms:.0f} ms without: {self.speedup:.2f}x as fast; {self.forced_share:.0%} of the tokens "
            f"forced. Of {self.documents} documents, {self.same_text} have the same text, {self.same_tokens} the same "
            f"tokens; canonical: {self.canonical} with, {self.canonical_unforced} without; "
            f"{self.departed_by_force} depart from it at a forced token."
        )


def compare(streams: int, forced: list[list[Stream]], unforced: list[list[Stream]], tokenizer: Any) -> Comparison:
    """What came of the same rounds, each way.

    Args:
        streams: how many at once.
        forced: answers by round, in the order in which they were begun.
        unforced: the same.
        tokenizer: of the model, with ``encode`` and ``decode`` as transformers have them.
    """
    times = [[_seconds_per_document(answers, streams) for answers in rounds] for rounds in (forced, unforced)]
    pairs = [
        (one, other)
        for answers, others in zip(forced, unforced, strict=True)
        for one, other in zip(answers, others, strict=True)
        if one.complete and other.complete
    ]

    def text(stream: Stream) -> str:
        return str(tokenizer.decode(stream.token_ids, skip_special_tokens=True))

    def departure(stream: Stream) -> int | None:
        """Where its tokens first differ from those that the tokenizer makes of its text; None where nowhere."""
        canonical = tokenizer.encode(text(stream), add_special_tokens=False)
        places = enumerate(zip(stream.token_ids, canonical, strict=False))
        return next((place for place, (one, other) in places if one != other), None)

    departures = [(stream, departure(stream)) for stream, _ in pairs]
    tokens = sum(len(stream.token_ids) for answers in forced for stream in answers)
    return Comparison(
        streams=streams,
        forced_ms=1e3 * statistics.median(times[0]),
        unforced_ms=1e3 * statistics.median(times[1]),
        speedup=statistics.median(slow / fast for fast, slow in zip(*times, strict=True)),
        forced_share=sum(stream.forced_tokens for answers in forced for stream in answers) / tokens,
        documents=len(pairs),
        same_text=sum(text(one) == text(other) for one, other in pairs),
        same_tokens=sum(one.token_ids == other.token_ids for one, other in pairs),
        canonical=sum(place is None for _, place in departures),
        canonical_unforced=sum(departure(other) is None for _, other in pairs),
        departed_by_force=sum(place is not None and stream.forced[place] for stream, place in departures),
    )


def _seconds_per_document(answers: list[Stream], streams: int) -> float:
    """Wall time by documents, while there were ``streams`` at once; of at least twice as many answers."""
    ends = sorted(stream.arrivals[-1] for stream in answers)
    # The first end that no new document follows: up to it there were as many as ever.
    last = len(ends) - streams
    return (ends[last] - ends[streams - 1]) / (last - streams + 1)


async def measure(model_name: str, dtype: str, streams: list[int], rounds: int) -> list[Comparison]:
    """Have the form filled in for every question each way, as many at once as ``streams`` says."""
    model = resolve(model_name)
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    questions = workload.chat_prompts(model.path)
    environment = {
        "GUIDED_TRTLLM_MODEL__TAG": model.tag,
        "GUIDED_TRTLLM_TORCH__DTYPE": dtype,
        "GUIDED_TRTLLM_TORCH__PREFIX_CACHE": "false",
    }
    schema = workload.REPORT_SCHEMA
    comparisons = []
    async with (
        bare.start(model.path, environment, schema=schema) as with_forced,
        bare.start(model.path, environment, schema=schema, forced_tokens=False) as without,
    ):
        contenders = (with_forced, without)
        most = max(streams)
        for contender in contenders:
            await contender.complete(list(islice(cycle(questions), most)), LONGEST_ANSWER, streams=most)  # warms up
        for number in streams:
            asked = list(islice(cycle(questions), max(_DOCUMENTS, _DOCUMENTS_OF_A_STREAM * number)))
            answers: dict[Bare, list[list[Stream]]] = {contender: [] for contender in contenders}
            for _ in range(rounds):
                for contender in contenders:
                    answers[contender].append(await contender.complete(asked, LONGEST_ANSWER, streams=number))
            comparisons.append(compare(number, answers[with_forced], answers[without], tokenizer))
    return comparisons


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forced", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="tag in the Bento model store")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32], help="numbers of simultaneous streams")
    parser.add_argument("--rounds", type=int, default=2, help="figures are medians over these")
    options = parser.parse_args()
    for comparison in asyncio.run(measure(options.model, options.dtype, options.streams, options.rounds)):
        print(comparison.line())


if __name__ == "__main__":
    main()
