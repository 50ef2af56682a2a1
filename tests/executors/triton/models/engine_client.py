"""What the stand-in models share: the way to the engine, which runs in a process with PyTorch (`engine.py`)."""

import contextlib
import json
import os
import socket


class EngineStream:
    """One generation: a request line there, response lines back. Closing it ends the work."""

    def __init__(self, request):
        self._socket = socket.create_connection(("127.0.0.1", int(os.environ["ENGINE_PORT"])))
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def __iter__(self):
        with self._socket.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)

    def close(self):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
