"""`python -m benchmarks.kernels`: what masking logits costs, beside the kernels that others ship.

On a machine with a CUDA GPU that measures the kernels, else the CPU twin on one thread. XGrammar takes part where it is
installed: ``pip install --no-deps xgrammar apache-tvm-ffi`` (its CUDA kernel also needs a CUDA toolkit).
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.kernels import contenders, timing, workload
from benchmarks.kernels.contenders import Call, Contender
from benchmarks.kernels.goals import Cell
from benchmarks.kernels.table import Table
from kernels.tensor_operations import allowed_tokens

OUT = Path(__file__).parent.parent / "out"


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; sizes depend on whether there is a GPU."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 256] if gpu else [1, 8, 32])
    parser.add_argument(
        "--vocabularies", type=int, nargs="+", default=[32_000, 128_256, 262_144] if gpu else [49_152, 128_256]
    )
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "float16", "bfloat16"]
    )
    parser.add_argument("--kinds", nargs="+", default=list(workload.KINDS), choices=workload.KINDS, help="of masks")
    parser.add_argument("--rounds", type=int, default=30, help="on a GPU: replays of each graph of 20 calls")
    parser.add_argument("--seconds", type=float, default=0.3, help="on a CPU: for all contenders in one cell")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for kernels.json and kernels.md")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Table:
    """Run everything."""
    gpu = torch.cuda.is_available()
    table = Table(torch.cuda.get_device_name() if gpu else f"{platform.processor() or platform.machine()}, one thread")
    if gpu:
        candidates, table.missing = contenders.on_gpu()
        [table.empty_launch_seconds] = timing.gpu_seconds([contenders.empty_launch()], options.rounds)
        table.copy_bandwidth = timing.copy_bandwidth(options.rounds)
    else:
        torch.set_num_threads(1)
        candidates, table.missing = contenders.on_cpu()
    device = "cuda" if gpu else "cpu"
    for vocabulary in options.vocabularies:
        for rows in options.rows:
            for kind in options.kinds:
                bitmask = workload.masks(kind, rows, vocabulary)
                for name in options.dtypes:
                    logits = torch.randn(rows, vocabulary, device=device).to(getattr(torch, name))
                    cell = Cell(
                        name,
                        vocabulary,
                        rows,
                        kind,
                        bitmask.nbytes + workload.forbidden_tokens(bitmask) * logits.itemsize,
                        bitmask.nbytes + workload.forbidden_sectors(bitmask, logits.itemsize) * 32,
                        _on_gpu(candidates, logits, bitmask.to(device), options.rounds, table.missing)
                        if gpu
                        else _on_cpu(candidates, logits, bitmask, options.seconds),
                    )
                    table.cells.append(cell)
                    print(f"{name}, {rows} x {vocabulary}, {kind}: {_microseconds(cell.seconds)}", flush=True)
            table.write(options.out)  # what is measured so far, for whoever has to stop it
    return table


def _on_cpu(
    candidates: Sequence[Contender], logits: torch.Tensor, bitmask: torch.Tensor, budget: float
) -> dict[str, float]:
    def on_its_own(call: Call) -> Callable[[], object]:
        mine = logits.clone()
        return lambda: call(mine, bitmask)

    calls = [on_its_own(_checked(candidate, logits, bitmask)) for candidate in candidates]
    seconds = timing.cpu_seconds(calls, budget)
    return {candidate.name: taken for candidate, taken in zip(candidates, seconds, strict=True)}


def _on_gpu(
    candidates: list[Contender], logits: torch.Tensor, bitmask: torch.Tensor, rounds: int, missing: list[str]
) -> dict[str, float]:
    """Each call of a graph has logits of its own, as they were, at each replay: masked or cached ones may be faster."""
    calls: dict[str, Callable[[int], object]] = {}
    pool = logits.new_empty(timing.CALLS_PER_GRAPH, *logits.shape)

    def on_each(call: Call) -> Callable[[int], object]:
        return lambda k: call(pool[k], bitmask)

    for candidate in list(candidates):
        call = _checked_or_missing(candidate, logits, bitmask, missing)
        if call is None:
            candidates.remove(candidate)
        else:
            calls[candidate.name] = on_each(call)
    seconds = timing.gpu_seconds(list(calls.values()), rounds, before=lambda: pool.copy_(logits.expand_as(pool)))
    return dict(zip(calls, seconds, strict=True))


def _checked_or_missing(
    contender: Contender, logits: torch.Tensor, bitmask: torch.Tensor, missing: list[str]
) -> Call | None:
    try:
        return _checked(contender, logits, bitmask)
    # What others raise is theirs, and no reason to measure nothing.
    except Exception as error:
        if contender.name.startswith("ours"):
            raise
        missing.append(f"{contender.name}, {logits.dtype} {tuple(logits.shape)}: {error}")
        return None


def _checked(contender: Contender, logits: torch.Tensor, bitmask: torch.Tensor) -> Call:
    """The contender's call, after its answer was found right: a wrong one has no speed."""
    mine = logits.clone()
    call = contender.prepare(mine, bitmask)
    call(mine, bitmask)
    allowed = allowed_tokens(bitmask, logits.shape[1], logits.device)
    if not mine[~allowed].isneginf().all() or (
        not contender.is_fused and not torch.equal(mine[allowed], logits[allowed])
    ):
        raise AssertionError(f"{contender.name} masks wrongly")
    return call


def _microseconds(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {taken * 1e6:.1f} µs" for name, taken in seconds.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse_options(arguments)
    table = measure(options)
    print(f"\n{table.markdown()}")
    print("Written:", *table.write(options.out))


if __name__ == "__main__":
    main()
