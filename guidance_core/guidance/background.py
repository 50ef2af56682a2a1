"""One call at a time in a thread of its own, at the least cost to the thread that asks for it.

A `concurrent.futures` pool takes 75 µs to be handed a call while another core idles, and most of that is Python that
holds the interpreter's lock, which a forward pass then waits for; two queues written in C take a fifth.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs a function when told to, and keeps what it returns until it is asked for.

    `start` and `result` are called in turn, from one thread.
    """

    def __init__(self, function: Callable[[], T], *, name: str) -> None:
        """Start the thread.

        Args:
            function: what is run.
            name: of the thread.
        """
        self._starts: SimpleQueue[bool] = SimpleQueue()
        self._results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        # It must not keep the process alive where nobody calls `close`.
        self._thread = Thread(target=self._run, args=(function,), name=name, daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Run the function; returns at once."""
        self._starts.put(True)

    def result(self) -> T:
        """Wait for what was started, once; what it raised is raised here."""
        value, error = self._results.get()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def close(self) -> None:
        """Let what runs end, and the thread after it."""
        self._starts.put(False)
        self._thread.join()

    def _run(self, function: Callable[[], T]) -> None:
        while self._starts.get():
            try:
                self._results.put((function(), None))
            except BaseException as error:  # noqa: PERF203 -- told to whoever waits
                self._results.put((None, error))
