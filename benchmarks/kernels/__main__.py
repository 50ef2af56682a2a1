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
from benchmarks.kernels.contenders import Contender
from benchmarks.kernels.table import Cell, Table
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
    for name in options.dtypes:
        for vocabulary in options.vocabularies:
            for rows in options.rows:
                for kind in options.kinds:
                    bitmask = workload.masks(kind, rows, vocabulary)
                    logits = torch.randn(rows, vocabulary).to(getattr(torch, name))
                    moved = bitmask.numel() * 4 + workload.forbidden_tokens(bitmask) * logits.element_size()
                    if gpu:
                        logits, bitmask = logits.cuda(), bitmask.cuda()
                    calls = [_checked(candidate, logits, bitmask) for candidate in candidates]
                    seconds = (
                        timing.gpu_seconds(calls, options.rounds) if gpu else timing.cpu_seconds(calls, options.seconds)
                    )
                    by_name = {candidate.name: taken for candidate, taken in zip(candidates, seconds, strict=True)}
                    table.cells.append(Cell(name, vocabulary, rows, kind, moved, by_name))
                    print(f"{name}, {rows} x {vocabulary}, {kind}: {_microseconds(by_name)}", flush=True)
    return table


def _checked(contender: Contender, logits: torch.Tensor, bitmask: torch.Tensor) -> Callable[[], object]:
    """The contender's call, on logits of its own, after its answer was found right: a wrong one has no speed."""
    mine = logits.clone()
    call = contender.prepare(mine, bitmask)
    call(mine, bitmask)
    allowed = allowed_tokens(bitmask, logits.shape[1], logits.device)
    if not mine[~allowed].isneginf().all() or (
        not contender.is_fused and not torch.equal(mine[allowed], logits[allowed])
    ):
        raise AssertionError(f"{contender.name} masks wrongly")
    return lambda: call(mine, bitmask)


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
