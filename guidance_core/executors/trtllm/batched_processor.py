"""The batched logits processor: one call, and one launch of the mask kernel, for all rows of a step.

Its interface is ``BatchedLogitsProcessor`` in ``tensorrt_llm/sampling_params.py`` (any callable with this signature
will do). The C++ executor of compiled engines calls it (``executor/base_worker.py`` of 1.0 to 1.2:
``LogitsPostProcessorConfig(processor_batched=…, replicate=False)``): on the first rank of a tensor-parallel group
(``cpp/tensorrt_llm/batch_manager/logitsPostProcessor.cpp``), whose masked logits the others then get, so that all ranks
see one mask.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field

import torch

from guidance_core.executors.trtllm.link import WorkerEnd
from guidance_core.executors.trtllm.steering import Row, Steering, only
from guidance_core.executors.trtllm.task import Failure, Task, WorkerSetup

_log = logging.getLogger(__name__)

_TASK_SECONDS = 10.0
"""A task is published right after its request was queued; it is late only if the service hangs."""


@dataclass(slots=True)
class _Worker:
    link: WorkerEnd
    steering: Steering


@dataclass
class BatchedProcessor:
    """Data only until its first call, which is in the process that runs the engine.

    Attributes:
        setup: of the worker.
    """

    setup: WorkerSetup
    _worker: _Worker | None = field(default=None, init=False, repr=False)

    def __call__(
        self,
        req_ids: list[int],
        logits: list[torch.Tensor],
        token_ids: list[list[list[int]]],
        stream_ptr: int,
        client_ids: list[int | None],
    ) -> None:
        """Mask and draw, in place.

        Args:
            req_ids: of the engine.
            logits: float [1, beams, vocabulary] of each request; there is one beam.
            token_ids: prompt and answer so far of each request's beams.
            stream_ptr: the CUDA stream that computes the logits.
            client_ids: of the LLM API: what ``RequestOutput.request_id`` says in the service.
        """
        rows = [tensor.view(-1, tensor.shape[-1])[0] for tensor in logits]
        with _on_stream(rows[0].device, stream_ptr):
            tasks: list[Task | None] = []
            try:
                worker = self._start(rows[0].device)
                tasks = [worker.link.entry(client, _TASK_SECONDS) for client in client_ids]
                known = [
                    Row(task, row, tokens[0])
                    for task, row, tokens in zip(tasks, rows, token_ids, strict=True)
                    if task is not None
                ]
                for task, row in zip(tasks, rows, strict=True):
                    if task is None:
                        self._end(row)
                reports = worker.steering.step(known)
                if reports:
                    worker.link.send(reports)
            except Exception as error:
                # Raising would fail every request in flight, those that nobody constrains too.
                _log.exception("The logits of %d requests could not be processed: they must end.", len(rows))
                for row in rows:
                    self._end(row)
                if self._worker is not None:
                    message = f"Our logits processor failed: {error}"
                    self._worker.link.send([Failure(task.key, message) for task in tasks if task is not None])

    def _start(self, device: torch.device) -> _Worker:
        if self._worker is None:
            link = WorkerEnd(self.setup.address)
            steering = Steering(self.setup, device)
            link.on_withdrawn(lambda task: steering.remove(task.key))
            self._worker = _Worker(link, steering)
        return self._worker

    def _end(self, row: torch.Tensor) -> None:
        """Let the answer end: the service fails a choice that ends where its grammar does not."""
        only(row, self.setup.eos_token_ids[0])

    def __getstate__(self) -> dict[str, object]:
        """Pickle the data only."""
        return {"setup": self.setup, "_worker": None}


def _on_stream(device: torch.device, stream_ptr: int) -> contextlib.AbstractContextManager[object]:
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(stream_ptr, device=device))  # type: ignore[no-untyped-call]
