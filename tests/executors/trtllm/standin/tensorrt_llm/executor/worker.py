"""``tensorrt_llm/executor/worker.py``: the process that runs the model."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Client, Connection
from pathlib import Path

from tensorrt_llm._torch.pyexecutor.py_executor import PyExecutor


def main(address: str) -> None:
    """Run until told to end.

    Args:
        address: of the proxy's socket.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection = Client(address, "AF_UNIX", authkey=bytes.fromhex(os.environ["STANDIN_KEY"]))
    args, backend = connection.recv()
    commands: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()
    started: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            executor = PyExecutor(args, backend, checkpoint=_checkpoint(Path(args.model), backend))
        except Exception as error:
            started.put(f"Failed to initialize executor: {error}")
            return
        started.put(None)
        executor.loop(commands, connection.send)

    thread = threading.Thread(target=run, name="executor-loop", daemon=True)
    thread.start()
    connection.send(started.get())
    while True:
        try:
            command = connection.recv()
        except EOFError:
            command = ("shutdown",)
        commands.put(command)
        if command[0] == "shutdown":
            thread.join()
            return


def _checkpoint(model: Path, backend: str) -> Path:
    """The stand-in's compiled engine is the path of the checkpoint that it was built from."""
    return Path(json.loads((model / "rank0.engine").read_text())) if backend == "tensorrt" else model


if __name__ == "__main__":
    main(sys.argv[1])
