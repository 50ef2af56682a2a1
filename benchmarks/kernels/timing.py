"""How long one call takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from statistics import median

import torch

CALLS_PER_GRAPH = 20

_HEAD_START = 400_000
"""Cycles that the device spends before what is measured, so that it never waits for the host meanwhile."""


def cpu_seconds(calls: list[Callable[[], object]], budget: float) -> list[float]:
    """Median of each, rounds of one call each, so that what else the machine does meets all alike.

    The order is drawn anew for each round: else each would always find the caches as one other leaves them.

    Args:
        calls: at least one.
        budget: seconds for all together.
    """
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    turns = list(zip(calls, times, strict=True))
    random = Random(0)
    end = time.perf_counter() + budget
    while len(times[0]) < 5 or time.perf_counter() < end:
        random.shuffle(turns)
        for call, taken in turns:
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [median(taken) for taken in times]


def gpu_seconds(
    calls: list[Callable[[int], object]], rounds: int, before: Callable[[], object] = lambda: None
) -> list[float]:
    """Median of each on the device, without what Python spends: a captured graph of many calls, replayed in turn.

    Args:
        calls: each puts its work on the current stream; told how many of its graph come before it, which is below
            `CALLS_PER_GRAPH`.
        rounds: replays of each graph.
        before: puts what each replay needs on the current stream; not measured.
    """
    graphs = []
    before()
    torch.cuda.synchronize()
    for call in calls:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for k in range(CALLS_PER_GRAPH):  # compiles, tunes and allocates
                call(k)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for k in range(CALLS_PER_GRAPH):
                call(k)
        graphs.append(graph)
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for graph, taken in zip(graphs, times, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            before()
            torch.cuda._sleep(_HEAD_START)  # type: ignore[no-untyped-call]
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / 1000 / CALLS_PER_GRAPH)
    return [median(taken) for taken in times]


def copy_bandwidth(rounds: int) -> float:
    """Bytes per second, read and written, that a copy of a gibibyte reaches on the GPU."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    [seconds] = gpu_seconds([lambda _: target.copy_(source)], rounds)
    return 2 * source.numel() / seconds
