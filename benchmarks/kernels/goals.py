"""What the kernels are to reach on a data-centre GPU, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OTHERS = ("xgrammar CUDA", "xgrammar Triton", "llguidance torch.compile")
"""That ours is never to be slower than."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload.

    Attributes:
        dtype: of the logits.
        vocabulary: logits per row.
        rows: of the batch.
        kind: of the masks.
        bytes: that a plain mask must move: its own, and the logits that it forbids.
        sector_bytes: its own, and the 32-byte sectors of memory, which move as a whole, with a logit that it forbids.
        seconds: of one call, by contender.
    """

    dtype: str
    vocabulary: int
    rows: int
    kind: str
    bytes: int
    sector_bytes: int
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal.

    Attributes:
        text: the goal.
        measured: what it is judged by, and in which cell.
        is_met: whether it is reached.
    """

    text: str
    measured: str
    is_met: bool


def goals(cells: Sequence[Cell], empty_launch_seconds: float | None, copy_bandwidth: float | None) -> list[Goal]:
    """Judge a run on a GPU; the worst cell decides. What was not measured is not judged.

    Args:
        cells: measured.
        empty_launch_seconds: of a kernel that does nothing; None: not on a GPU.
        copy_bandwidth: bytes per second; None: not on a GPU.
    """
    if empty_launch_seconds is None or copy_bandwidth is None:
        return []
    judged = list(_one_row(cells, empty_launch_seconds))
    judged += _bandwidth(cells, copy_bandwidth)
    for other in OTHERS:
        judged += _ratio(f"never slower than {other}", "ours", other, cells, 1.0)
    few = [cell for cell in cells if cell.rows <= 32]
    judged += _ratio(
        "fused, 1 to 32 rows: at least 3 times as fast as a block per row", "ours, fused", "block per row", few, 1 / 3
    )
    return judged


def _one_row(cells: Sequence[Cell], empty: float) -> Iterator[Goal]:
    for name in ("ours", "ours, no overlap"):
        found = [cell for cell in cells if (cell.rows, cell.vocabulary) == (1, 128_256) and name in cell.seconds]
        if found:
            worst = max(found, key=lambda cell: cell.seconds[name])
            share = worst.seconds[name] / empty
            text = f"{name}: one row of 128,256 at most 1.3 times an empty launch"
            yield Goal(text, f"{share:.2f} ({_name(worst)})", share <= 1.3)


def _bandwidth(cells: Sequence[Cell], copy_bandwidth: float) -> Iterator[Goal]:
    for cell in cells:
        if (cell.rows, cell.vocabulary) != (256, 128_256) or "ours" not in cell.seconds:
            continue
        for kind, moved, of in (("1/2 in runs", cell.bytes, "bytes"), ("1/2", cell.sector_bytes, "sectors")):
            if cell.kind == kind:
                share = moved / cell.seconds["ours"] / copy_bandwidth
                text = f"256 rows of 128,256, half forbidden: at least 0.9 of a copy's bandwidth on the {of} to move"
                yield Goal(text, f"{share:.2f} ({_name(cell)})", share >= 0.9)


def _ratio(text: str, ours: str, other: str, cells: Sequence[Cell], most: float) -> Iterator[Goal]:
    found = [(cell.seconds[ours] / cell.seconds[other], cell) for cell in cells if {ours, other} <= cell.seconds.keys()]
    if found:
        ratio, worst = max(found, key=lambda each: each[0])
        above = sum(share > most for share, _ in found)
        measured = (
            f"at most {ratio:.2f} of its time ({_name(worst)}); more than {most:.2f} in {above} of {len(found)} cells"
        )
        yield Goal(text, measured, above == 0)


def _name(cell: Cell) -> str:
    return f"{cell.dtype}, {cell.rows} x {cell.vocabulary}, {cell.kind}"
