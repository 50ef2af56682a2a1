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
