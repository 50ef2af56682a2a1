"""Stands in for the embedded executor's process: replays answers that were made beforehand, a step at a time."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler

from guidance_core.executors.base import ExecutorStats, ModelLimits
from guidance_core.executors.torch.messages import Command, Load, Ready, Report, Stepped, Submit
from guidance_core.generation import GuidanceTimes, SamplingParams, TokenDelta, TokenLogprob

LIMITS = ModelLimits(vocab_size=49152, max_model_len=8192, eos_token_ids=(2,))
_ORDINARY = range(500, 4_500)
"""Ordinary tokens of the default model's vocabulary; some are parts of characters."""


class ReplayedProcess:
    """As `EngineProcess`, for one group of requests after another.

    What would reach the service through a pipe is pickled before the requests are asked; the thread that would read it
    unpickles it, with what that costs the event loop. It begins when all requests of the group have come.

    Attributes:
        last_report: see `EngineProcess`.
        pid: of no process.
    """

    pid = 0
    step_seconds = 0.01
    """From one step to the next."""
    requests = 1
    """How many there are in a group."""
    messages: Sequence[bytes] = ()
    """The steps of the next group's answers, pickled; requests have keys from 0 there."""

    def __init__(self, load: Load, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        """Be ready soon."""
        self.last_report = time.monotonic()
        self._on_report = on_report
        self._keys: list[int] = []
        ready = Ready(LIMITS, ExecutorStats(slots=32), None, "it is replayed")
        self._steps: threading.Thread = threading.Timer(0.1, on_report, (ready,))
        self._steps.start()

    def send(self, command: Command) -> None:
        """Begin to answer, if it is the last request of its group."""
        if isinstance(command, Submit):
            self._keys.append(command.key)
            if len(self._keys) == self.requests:
                keys, self._keys = self._keys, []
                self._steps = threading.Thread(target=self._replay, args=(keys,), daemon=True)
                self._steps.start()

    def stop(self) -> None:
        """There is nothing to stop."""

    def kill(self) -> None:
        """There is nothing to kill."""

    def join(self, timeout: float) -> bool:
        """Wait for the last step."""
        self._steps.join(timeout)
        return not self._steps.is_alive()

    def _replay(self, keys: list[int]) -> None:
        due = time.monotonic()
        for message in self.messages:
            due += self.step_seconds
            time.sleep(max(0.0, due - time.monotonic()))
            stepped = ForkingPickler.loads(message)
            stepped.deltas[:] = [(keys[request], delta) for request, delta in stepped.deltas]
            self._on_report(stepped)


def recorded(sampling: SamplingParams, *, requests: int, guided: bool) -> list[bytes]:
    """The pickled steps of answers at random to some requests: a token for each choice at each of them.

    Args:
        sampling: of each request.
        requests: how many run together.
        guided: they are under a grammar.
    """
    draw = random.Random(0)
    choices = [(request, index) for request in range(requests) for index in range(sampling.n)]
    messages = []
    for position in range(sampling.max_tokens):
        last = position == sampling.max_tokens - 1
        deltas = [(request, _delta(draw, sampling, index, position == 0, last, guided)) for request, index in choices]
        messages.append(bytes(ForkingPickler.dumps(Stepped(deltas, [], ExecutorStats()))))
    return messages


def _delta(
    draw: random.Random, sampling: SamplingParams, index: int, first: bool, last: bool, guided: bool
) -> TokenDelta:
    token_id = draw.choice(_ORDINARY)
    return TokenDelta(
        index=index,
        token_ids=(token_id,),
        logprobs=None if sampling.logprobs is None else (_logprob(draw, token_id, sampling.logprobs),),
        finish_reason="length" if last else None,
        guidance=GuidanceTimes(0, 2e-5, 1e-5) if guided else None,
        cached_tokens=0 if first else None,
    )


def _logprob(draw: random.Random, token_id: int, top: int) -> TokenLogprob:
    values = itertools.accumulate(-draw.expovariate(1.0) for _ in range(top))
    likeliest = zip(draw.sample(_ORDINARY, top), values, strict=True)
    return TokenLogprob(token_id, -draw.expovariate(0.5), tuple(likeliest))
