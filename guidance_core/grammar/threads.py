"""Threads that survive deep grammars.

llguidance recurses over rules and references: some thousands of them in a chain overflow a usual 8 MiB stack, which
ends the whole process. The largest grammars accepted (`GuidanceSettings.max_grammar_bytes`) fit into 512 MiB, of which
the system only ever hands out what is touched.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

_STACK_BYTES = 512 * 2**20
_starting = threading.Lock()


def deep_stack_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A thread pool, already started, whose threads have deep stacks."""
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
    barrier = threading.Barrier(threads + 1)
    with _starting:
        before = threading.stack_size(_STACK_BYTES)
        try:
            for _ in range(threads):
                pool.submit(barrier.wait)
        finally:
            threading.stack_size(before)
    barrier.wait()
    return pool


class Lanes:
    """Pools of such threads, one for each kind of work: what takes long holds up nothing but its like.

    Args:
        name: of the threads, before their lane's.
        threads: how many each lane has, by the lane's name.
    """

    def __init__(self, name: str, **threads: int) -> None:
        self._pools = {lane: deep_stack_pool(count, f"{name}-{lane}") for lane, count in threads.items()}

    def __getitem__(self, lane: str) -> ThreadPoolExecutor:
        """A lane's pool."""
        return self._pools[lane]

    def shutdown(self, *, wait: bool) -> None:
        """Stop the threads after what they are doing; what waits for one is cancelled."""
        for pool in self._pools.values():
            pool.shutdown(wait=wait, cancel_futures=True)


def is_long(source: str) -> bool:
    """Whether a grammar or schema may take seconds to compile: llguidance's time grows with the square of an object's
    properties, of which 12,000 (640 kB) take 10 s. In 64 kB nothing that we know of takes more than half a second but
    long patterns (`trial.has_long_pattern`).
    """
    return len(source) > 64_000
