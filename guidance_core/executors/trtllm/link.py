"""The way between the service and TensorRT-LLM's worker processes, which TensorRT-LLM itself does not offer.

Workers connect on first use, to a Unix socket: rank 0 runs on the service's machine, whether MPI or Ray started it.
Both sides prove that they know a secret that only travels inside pickled processors (`multiprocessing.connection`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import shutil
import socket
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

_WITHDRAWN_KNOWN = 10_000
"""So many of the last withdrawn entries are remembered: nobody need wait for them."""


@dataclass(frozen=True)
class Address:
    """Where the service listens.

    Attributes:
        path: of the socket.
        secret: known to both sides.
    """

    path: str
    secret: bytes = field(repr=False)


class ServiceEnd:
    """The service's end: publishes entries to all workers, and hears what they report.

    Args:
        on_message: called in a thread of its own for each message of a worker.
    """

    def __init__(self, on_message: Callable[[Any], None]) -> None:
        self._on_message = on_message
        self._folder = Path(tempfile.mkdtemp(prefix="guided-trtllm-"))
        self.address = Address(str(self._folder / "socket"), secrets.token_bytes(32))
        self._listener = Listener(self.address.path, "AF_UNIX", backlog=64, authkey=self.address.secret)
        self._outbox: queue.SimpleQueue[tuple[Hashable, Any] | Connection | None] = queue.SimpleQueue()
        self._closed = False
        for work, name in ((self._accept, "trtllm-link"), (self._write, "trtllm-tasks")):
            threading.Thread(target=work, name=name, daemon=True).start()

    def publish(self, key: Hashable, value: Any) -> None:
        """Let workers know an entry; those that connect later get it too."""
        self._outbox.put((key, value))

    def withdraw(self, key: Hashable) -> None:
        """Let workers forget an entry. Unknown ones are ignored."""
        self._outbox.put((key, None))

    def close(self) -> None:
        """Let all workers go."""
        self._closed = True
        self._outbox.put(None)
        with contextlib.suppress(OSError, AuthenticationError, EOFError):
            # Nothing else wakes a thread out of accept().
            Client(self.address.path, "AF_UNIX", authkey=self.address.secret).close()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self) -> None:
        """Tell workers what is published; alone in a thread, which a worker that hangs may hold up."""
        published: dict[Hashable, Any] = {}
        workers: list[Connection] = []
        while (item := self._outbox.get()) is not None:
            if isinstance(item, Connection):
                if all(_sent(item, entry) for entry in published.items()):
                    workers.append(item)
                continue
            key, value = item
            if value is not None:
                published[key] = value
            elif published.pop(key, None) is None:
                continue
            workers = [worker for worker in workers if _sent(worker, item)]
        for worker in workers:
            _hang_up(worker)

    def _accept(self) -> None:
        while True:
            worker = self._accept_one()
            if self._closed:
                return
            if worker is not None:
                self._outbox.put(worker)
                threading.Thread(target=self._read, args=(worker,), name="trtllm-reports", daemon=True).start()

    def _accept_one(self) -> Connection | None:
        """The next worker; None for somebody who does not know the secret, or who has gone."""
        try:
            return self._listener.accept()
        except (OSError, AuthenticationError, EOFError):
            return None

    def _read(self, worker: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._on_message(worker.recv())


def _sent(worker: Connection, message: object) -> bool:
    try:
        worker.send(message)
    except OSError:
        return False
    return True


def _hang_up(worker: Connection) -> None:
    """End both directions. Closing would not, while a thread of ours reads from it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(worker.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


class WorkerEnd:
    """A worker's end. Connects when made.

    Args:
        address: of the service.

    Raises:
        OSError: the service is not on this machine, or has gone.
    """

    def __init__(self, address: Address) -> None:
        self._connection = Client(address.path, "AF_UNIX", authkey=address.secret)
        self._published: dict[Hashable, Any] = {}
        self._withdrawn: OrderedDict[Hashable, None] = OrderedDict()
        self._changed = threading.Condition()
        self._on_withdrawn: Callable[[Any], None] = lambda value: None
        threading.Thread(target=self._read, name="trtllm-link", daemon=True).start()

    def entry(self, key: Hashable, seconds: float) -> Any:
        """An entry that the service publishes, waited for at most so long; None if it is withdrawn or does not come."""
        with self._changed:
            self._changed.wait_for(lambda: key in self._published or key in self._withdrawn, seconds)
            return self._published.get(key)

    def on_withdrawn(self, callback: Callable[[Any], None]) -> None:
        """Call this with each entry that the service withdraws, in a thread of its own."""
        self._on_withdrawn = callback

    def send(self, message: Any) -> None:
        """Tell the service something; it may have gone."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                key, value = self._connection.recv()
                with self._changed:
                    if value is None:
                        withdrawn = self._published.pop(key, None)
                        self._withdrawn[key] = None
                        if len(self._withdrawn) > _WITHDRAWN_KNOWN:
                            self._withdrawn.popitem(last=False)
                        if withdrawn is not None:
                            self._on_withdrawn(withdrawn)
                    else:
                        self._published[key] = value
                    self._changed.notify_all()
