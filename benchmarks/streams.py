"""What is measured of answers that arrive token by token."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stream:
    """One answer as it arrived. Times are `time.perf_counter` seconds.

    Attributes:
        started: when it was asked for.
        arrivals: when each piece came.
        pieces: tokens in each piece; more than one where a grammar forced some.
        token_ids: the answer, from contenders that say it.
        forced: of each of ``token_ids``, whether the grammar forced it.
        forced_tokens: how many tokens the grammar forced.
        mask_wait: seconds that guidance held the model up for this answer.
        complete: it came to its own end.
    """

    started: float
    arrivals: list[float] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    forced_tokens: int = 0
    mask_wait: float = 0.0
    complete: bool = False

    def add(self, arrival: float, tokens: int) -> None:
        """Note a piece of the answer."""
        self.arrivals.append(arrival)
        self.pieces.append(tokens)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of simultaneous streams gave.

    Attributes:
        tokens_per_second: of all streams together, from the first question to the last token.
        first_token_ms: from question to first token, median over the streams.
        between_tokens_p50_ms, between_tokens_p99_ms: between arrivals, over all streams.
        per_token_ms: from the first arrival to the last, by the tokens that came in between; median over the streams.
        forced_share: share of the tokens that the grammar forced.
        mask_wait_us: time that guidance held the model up, per sampled token; 0 where it is not reported.
    """

    tokens_per_second: float
    first_token_ms: float
    between_tokens_p50_ms: float
    between_tokens_p99_ms: float
    per_token_ms: float
    forced_share: float
    mask_wait_us: float


def summarize(streams: list[Stream]) -> Figures:
    """The figures of streams that ran together.

    Raises:
        ValueError: a stream without tokens: there is nothing to measure.
    """
    if any(not stream.arrivals for stream in streams):
        raise ValueError("A stream ended without a token.")
    tokens = sum(sum(stream.pieces) for stream in streams)
    forced = sum(stream.forced_tokens for stream in streams)
    elapsed = max(stream.arrivals[-1] for stream in streams) - min(stream.started for stream in streams)
    gaps = sorted(
        later - earlier
        for stream in streams
        for earlier, later in zip(stream.arrivals, stream.arrivals[1:], strict=False)
    ) or [0.0]
    return Figures(
        tokens_per_second=tokens / elapsed,
        first_token_ms=1e3 * statistics.median(stream.arrivals[0] - stream.started for stream in streams),
        between_tokens_p50_ms=1e3 * statistics.median(gaps),
        between_tokens_p99_ms=1e3 * gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))],
        per_token_ms=1e3 * statistics.median(_seconds_per_token(stream) for stream in streams),
        forced_share=forced / tokens,
        mask_wait_us=1e6 * sum(stream.mask_wait for stream in streams) / (tokens - forced),
    )


def _seconds_per_token(stream: Stream) -> float:
    return (stream.arrivals[-1] - stream.arrivals[0]) / max(1, sum(stream.pieces[1:]))


def median_of(rounds: list[Figures]) -> Figures:
    """Figure by figure, the median over rounds."""
    return Figures(
        *(statistics.median(getattr(figures, name) for figures in rounds) for name in Figures.__dataclass_fields__)
    )
