"""The logits processor of one choice, for the PyTorch backend.

Its interface is ``LogitsProcessor`` in ``tensorrt_llm/sampling_params.py`` (any callable with this signature will do).
It is pickled into the worker processes and called in each of them that holds logits, one request after the other, right
after a forward pass was queued: ``_execute_logit_post_processors`` in ``_torch/pyexecutor/model_engine.py`` (1.2; in
1.3 in ``engine/runners/decoder/runner.py``). All ranks see the same logits and compute the same.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from guidance_core.executors.trtllm.link import Address, WorkerEnd
from guidance_core.executors.trtllm.steering import Row, Steering, only, steering_of
from guidance_core.executors.trtllm.task import Failure, Task, WorkerSetup

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class RequestProcessor:
    """Data only until its first call, which is in the process that runs the model.

    Attributes:
        setup: of the worker.
        task: of the choice.
    """

    setup: WorkerSetup
    task: Task
    _steering: Steering | None = field(default=None, init=False, repr=False)

    def __call__(
        self,
        req_id: int,
        logits: torch.Tensor,
        token_ids: list[list[int]],
        stream_ptr: int | None,
        client_id: int | None,
    ) -> None:
        """Mask and draw, in place.

        Args:
            req_id: of the engine.
            logits: float [beams, 1, vocabulary]; there is one beam.
            token_ids: prompt and answer so far of each beam.
            stream_ptr: None: the logits belong to the current stream.
            client_id: None on this backend.
        """
        row = logits.view(-1, logits.shape[-1])[0]
        try:
            if self._steering is None:
                self._steering = steering_of(self.setup)
                # Nobody tells a worker that a request has ended, but its processor is then forgotten.
                weakref.finalize(self, self._steering.remove, self.task.key)
            reports = self._steering.step([Row(self.task, row, token_ids[0])])
            if reports:
                _link(self.setup.address).send(reports)
        except Exception as error:
            # Raising would fail every request in flight, those that nobody constrains too.
            _log.exception("The logits of request %s could not be processed.", self.task.request.request_id)
            only(row, self.setup.eos_token_ids[0])
            with contextlib.suppress(OSError):
                _link(self.setup.address).send([Failure(self.task.key, f"Our logits processor failed: {error}")])

    def __getstate__(self) -> dict[str, object]:
        """Pickle the data only."""
        return {"setup": self.setup, "task": self.task, "_steering": None}


@lru_cache(maxsize=4)
def _link(address: Address) -> WorkerEnd:
    return WorkerEnd(address)
