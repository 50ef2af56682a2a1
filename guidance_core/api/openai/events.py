"""Server-sent events as OpenAI writes them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Any

from guidance_core.api.events import data_event
from guidance_core.api.events import event_stream as guarded_stream
from guidance_core.api.json_text import json_ascii
from guidance_core.api.openai.bodies import StreamOptions
from guidance_core.api.openai.errors import failure_object
from guidance_core.api.streaming import ClosingStream
from guidance_core.errors import RequestError

DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Writes the chunks of one stream; what they have in common is encoded once.

    Attributes:
        include_usage: the client wants one more chunk, with the usage.
    """

    def __init__(self, head: dict[str, Any], options: StreamOptions | None) -> None:
        """Take what every chunk begins with."""
        self.include_usage = options is not None and options.include_usage is True
        self._head = f'data: {json_ascii(head)[:-1]},"choices":['
        self._tail = '],"usage":null' if self.include_usage else "]"
        self._obfuscate = options is not None and options.include_obfuscation is True

    def chunk(self, choice: dict[str, Any], beside: dict[str, Any] | None = None) -> bytes:
        """One event with one choice, and with fields beside the choices."""
        tail = self._tail if beside is None else f"{self._tail},{json_ascii(beside)[1:-1]}"
        return self._event(json_ascii(choice), tail)

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The event with the usage and no choice."""
        return self._event("", f'],"usage":{json_ascii(usage)}')

    def _event(self, choice: str, tail: str) -> bytes:
        if self._obfuscate:
            # As long as it takes for all short chunks to have one length.
            tail += f',"obfuscation":"{secrets.token_hex(_PADDED_LENGTH)[: -len(choice) % _PADDED_LENGTH]}"'
        return f"{self._head}{choice}{tail}}}\n\n".encode("ascii")


_PADDED_LENGTH = 128


def event_stream(events: AsyncGenerator[bytes, None], *, choices: int, comments_every: float | None) -> ClosingStream:
    """The answer that writes these events, as `api.events` does; after an error event there is no ``[DONE]``."""
    return guarded_stream(events, failure=_failure, choices=choices, comments_every=comments_every)


def _failure(error: RequestError) -> bytes:
    return data_event(failure_object(error))
