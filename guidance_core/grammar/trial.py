"""Tries a grammar where a crash hurts nobody: run as a script, in a process of its own.

llguidance answers almost everything with an error, but not all: version 1.9 recurses without end over
``start: %json {"const": -9223372036854775808}``, which ends the process that it runs in. Grammars that clients write in
llguidance's own language go through here first (about 0.1 s, once per grammar); those that `Constraint.translations`
makes of schemas, regexes and choices cannot contain such things.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import threading

from llguidance import LLMatcher, LLTokenizer

_SECONDS = 5
_MEMORY_BYTES = 4 * 2**30
_STACK_BYTES = 512 * 2**20


def crashes(source: str) -> str | None:
    """How compiling a grammar ends its process, or None where it does not (though it may be refused)."""
    try:
        process = subprocess.run(
            [sys.executable, __file__], input=source.encode(), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"takes longer than {_SECONDS} s to compile"
    return None if process.returncode == 0 else "makes llguidance crash"


def _compile(source: str) -> None:
    LLMatcher(LLTokenizer("byte"), source, log_level=0).compute_bitmask()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_compile, args=(sys.stdin.buffer.read().decode(),))
    thread.start()
    thread.join()
