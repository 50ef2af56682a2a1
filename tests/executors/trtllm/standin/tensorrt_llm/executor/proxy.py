"""``tensorrt_llm/executor/proxy.py``: the service's side of the worker process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from multiprocessing.connection import Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tensorrt_llm.executor.result import GenerationResult, Response
from tensorrt_llm.llmapi.llm_args import BaseLlmArgs

if TYPE_CHECKING:
    from tensorrt_llm.executor.request import LoRARequest
    from tensorrt_llm.sampling_params import SamplingParams

T = TypeVar("T", bound=GenerationResult)


class GenerationExecutorProxy:
    """Starts the worker and talks to it.

    Raises:
        RuntimeError: the worker did not start.
    """

    def __init__(self, args: BaseLlmArgs, backend: str) -> None:
        self.doing_shutdown = False
        self._worker_ended = threading.Event()
        self._results: dict[int, GenerationResult] = {}
        self._ids = itertools.count(1)
        self._stats: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[str]]] = []
        secret = secrets.token_bytes(16)
        folder = tempfile.TemporaryDirectory()
        address = str(Path(folder.name) / "socket")
        with Listener(address, "AF_UNIX", authkey=secret) as listener:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tensorrt_llm.executor.worker", address],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "STANDIN_KEY": secret.hex()},
            )
            self._connection = listener.accept()
        folder.cleanup()
        self._connection.send((args, backend))
        problem = self._connection.recv()
        if problem is not None:
            self._process.wait()
            raise RuntimeError(problem)
        threading.Thread(target=self._read, daemon=True).start()

    def submit(self, result: T, lora_request: LoRARequest | None) -> T:
        """Send a request to the worker.

        Raises:
            RuntimeError: it has ended, which nobody was told: what was in flight goes on waiting.
        """
        if self._worker_ended.is_set():
            self.shutdown()
            raise RuntimeError("Worker exited unexpectedly.")
        result.request_id = next(self._ids)
        self._results[result.request_id] = result
        params: SamplingParams = result.sampling_params
        # Plain pickle, as `tensorrt_llm/executor/ipc.py`: tensors go along as bytes.
        message = ("submit", result.request_id, result.prompt_token_ids, params, lora_request)
        self._connection.send_bytes(pickle.dumps(message))
        return result

    def abort_request(self, client_id: int) -> None:
        """Ask the worker to stop a request."""
        with contextlib.suppress(OSError):
            self._connection.send(("abort", client_id))

    async def iteration_stats(self, timeout: float | None) -> AsyncIterator[dict[str, Any]]:
        """See `LLM.get_stats_async`."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._stats.append((asyncio.get_running_loop(), queue))
        with contextlib.suppress(asyncio.TimeoutError):
            while True:
                yield json.loads(await asyncio.wait_for(queue.get(), timeout))

    def shutdown(self) -> None:
        """End the worker."""
        self.doing_shutdown = True
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._connection.send(("shutdown",))
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read(self) -> None:
        while True:
            try:
                kind, client_id, content = self._connection.recv()
            except (EOFError, OSError):
                break
            if kind == "stats":
                for loop, queue in self._stats:
                    if not loop.is_closed():
                        loop.call_soon_threadsafe(queue.put_nowait, content)
            else:
                self._respond(client_id, content)
        self._worker_ended.set()

    def _respond(self, client_id: int, response: Response) -> None:
        result = self._results.get(client_id)
        if result is None:
            return
        if response.finish_reason is not None or response.error is not None:
            del self._results[client_id]
        if not result.loop.is_closed():
            result.loop.call_soon_threadsafe(result.aqueue.put_nowait, response)
