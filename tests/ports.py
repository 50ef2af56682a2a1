"""Ports for the servers that tests start."""

from __future__ import annotations

import os
import socket

_FIRST, _LAST, _EACH = 18600, 28600, 1000
"""Below the ports that Linux gives to clients, and to servers that ask for any port: one of these could take a port
between the moment it is found free and the start of the server that it is meant for."""

# Test runs side by side begin at different ones.
_first = _FIRST + os.getpid() * 50 % (_LAST - _FIRST)
_ports = iter(range(_first, _first + _EACH))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that was not given before."""
    for port in _ports:
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
