"""Engines run in processes of their own: a compiler that hangs, crashes or eats all memory costs one schema only."""

from __future__ import annotations

import multiprocessing
import resource
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.masks.walk import Outcome, Walk

_START_SECONDS = 120.0
_MEMORY_BYTES = 8 * 2**30


class Runner:
    """An engine in a process that is started anew whenever it does not come back."""

    def __init__(self, engine: str, model_path: Path, vocab_size: int, eos_token_id: int, seconds: float) -> None:
        """Start the process.

        Args:
            engine: key of `engines.ENGINES`.
            model_path: see `Engine`.
            vocab_size: see `Engine`.
            eos_token_id: see `Engine`.
            seconds: most time for one schema.
        """
        self._arguments = (engine, model_path, vocab_size, eos_token_id)
        self._seconds = seconds
        self._start()

    def walk(self, entry: dict[str, Any]) -> Walk:
        """See `walk.walk_schema`."""
        self._connection.send(entry)
        try:
            if self._connection.poll(self._seconds):
                walk: Walk = self._connection.recv()
                return walk
            ended: Outcome = "timed out"
            reason = f"took longer than {self._seconds:.0f} s"
        except EOFError:
            self._process.join()
            ended, reason = "crashed", f"the process ended with {self._process.exitcode}"
        self.close()
        self._start()
        return Walk(entry["name"], ended, reason)

    def close(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(_START_SECONDS) or self._connection.recv() != "ready":
            raise RuntimeError(f"{self._arguments[0]} did not start")


def _serve(connection: Connection, engine: str, model_path: Path, vocab_size: int, eos_token_id: int) -> None:
    import torch

    from benchmarks.masks.engines import ENGINES
    from benchmarks.masks.walk import walk_schema

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    make, _ = ENGINES[engine]
    instance = make(model_path, vocab_size, eos_token_id)
    connection.send("ready")
    with suppress(EOFError):
        while True:
            connection.send(walk_schema(instance, connection.recv()))
