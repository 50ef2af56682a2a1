"""The figures of all engines as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.masks.walk import Walk


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def coverage(walks: Mapping[str, list[Walk]]) -> str:
    """How many schemas each engine took, and how it judged their instances."""
    lines = [
        "| engine | compiled | refused | timed out or crashed | valid instances rejected | invalid ones accepted |",
        "|---|---|---|---|---|---|",
    ]
    for engine, done in walks.items():
        outcomes = Counter(walk.outcome for walk in done)
        lines.append(
            f"| {engine} | {outcomes['compiled']} | {outcomes['refused']} "
            f"| {outcomes['timed out'] + outcomes['crashed'] + outcomes['failed']} "
            f"| {sum(w.valid_rejected for w in done)} of {sum(w.valid for w in done)} "
            f"| {sum(w.invalid_accepted for w in done)} of {sum(w.invalid for w in done)} |"
        )
    return "\n".join(lines)


def costs(walks: Mapping[str, list[Walk]], names: Iterable[str]) -> str:
    """Compile times in ms and mask times in µs over some schemas."""
    wanted = set(names)
    lines = [
        "| engine | compile p50 | p75 | p90 | p99 | max, ms "
        "| mask mean | p50 | p90 | p99 | max, µs | mask and advance, mean µs |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for engine, done in walks.items():
        chosen = [walk for walk in done if walk.name in wanted and walk.outcome == "compiled"]
        compiled = [1e3 * walk.compile for walk in chosen]
        masks = [1e6 * seconds for walk in chosen for seconds in walk.masks]
        tokens = [1e6 * seconds for walk in chosen for seconds in walk.tokens]
        if not masks:
            continue
        cells = [f"{quantile(compiled, share):.2f}" for share in (0.5, 0.75, 0.9, 0.99, 1)]
        cells.append(f"{sum(masks) / len(masks):.1f}")
        cells += [f"{quantile(masks, share):.1f}" for share in (0.5, 0.9, 0.99, 1)]
        cells.append(f"{sum(tokens) / len(tokens):.1f}")
        lines.append(f"| {engine} | {' | '.join(cells)} |")
    return "\n".join(lines)


def common(walks: Mapping[str, list[Walk]]) -> set[str]:
    """The schemas that every engine compiled."""
    return set.intersection(*({walk.name for walk in done if walk.outcome == "compiled"} for done in walks.values()))
