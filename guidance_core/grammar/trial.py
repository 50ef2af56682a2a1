"""Tries a grammar where a crash hurts nobody: run as a program, in a process of its own.

llguidance answers almost everything with an error, but not all: version 1.9 recurses without end over
``start: %json {"const": -9223372036854775808}``, which ends the process that it runs in. Grammars that clients write in
llguidance's own language go through here first (about 0.1 s, once per grammar); those that `Constraint.translations`
makes of schemas, regexes and choices cannot contain such things. They can take hours: the time of a regex grows with
the square of its repetitions. So what is long goes through here, too, from its translation on.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLTokenizer

from guidance_core.grammar.threads import is_long

if TYPE_CHECKING:
    from guidance_core.grammar.constraint import Constraint

_ROOT = Path(__file__).parents[2]
_SECONDS = 5
_SECONDS_OF_LONG = 15
_MEMORY_BYTES = 4 * 2**30
_STACK_BYTES = 512 * 2**20

_LONG_PATTERN = 4_000
"""Characters; some 2,000 repetitions, which take 0.2 s."""


def crashes(source: str) -> str | None:
    """How compiling a grammar ends its process, or None where it does not (though it may be refused)."""
    return _crash("source", source, _SECONDS)


def long_crashes(constraint: Constraint) -> str | None:
    """How translating and compiling a constraint ends its process, or None where it does not."""
    seconds = _SECONDS_OF_LONG if is_long(constraint.definition) else _SECONDS
    return _crash("constraint", json.dumps(asdict(constraint)), seconds)


def has_long_pattern(definition: str) -> bool:
    """Whether a constraint's definition may have a regular expression that takes a second or more."""
    if len(definition) <= _LONG_PATTERN:
        return False
    # An escaped quotation mark ends no string.
    return max(map(len, definition.replace('\\"', "").split('"'))) > _LONG_PATTERN


def _crash(form: str, text: str, seconds: float) -> str | None:
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    try:
        process = subprocess.run(
            [sys.executable, "-m", "guidance_core.grammar.trial", form],
            input=text.encode(),
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes longer than {seconds} s to compile"
    return None if process.returncode == 0 else "makes llguidance crash"


def _try(form: str, text: str) -> None:
    try:
        (_try_source if form == "source" else _try_constraint)(text)
    except MemoryError:
        os._exit(1)


def _try_source(source: str) -> None:
    LLMatcher(LLTokenizer("byte"), source, log_level=0).compute_bitmask()


def _try_constraint(text: str) -> None:
    from guidance_core.errors import InvalidGrammar
    from guidance_core.grammar.constraint import Constraint
    from guidance_core.grammar.taking import taken

    with suppress(InvalidGrammar):  # the service finds that out, too, and says so
        _try_source(taken(Constraint(**json.loads(text)).translations()).source)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_try, args=(sys.argv[1], sys.stdin.buffer.read().decode()))
    thread.start()
    thread.join()
