"""Server-sent events that end well or with an error event, in any dialect."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from guidance_core.api.json_text import json_ascii
from guidance_core.api.streaming import ClosingStream, folded, with_fillers
from guidance_core.errors import RequestError

logger = logging.getLogger(__name__)

_CHECKING = b": checking\n\n"


def data_event(data: dict[str, Any]) -> bytes:
    """One event of no named type."""
    return f"data: {json_ascii(data)}\n\n".encode("ascii")


def event_stream(
    events: AsyncGenerator[bytes, None],
    *,
    failure: Callable[[RequestError], bytes],
    choices: int,
    comments_every: float | None,
) -> ClosingStream:
    """The answer that writes these events.

    Args:
        events: whole events; what it raises ends the stream with an error event.
        failure: writes that event.
        choices: how many choices they tell of. Of several, what comes in one step is written at once.
        comments_every: seconds of silence after which a comment is written, which clients ignore and which keeps
            proxies from closing the connection; None for never.
    """
    events = _guarded(events, failure)
    if comments_every is not None:
        events = with_fillers(events, _CHECKING, every=comments_every)
    if choices > 1:
        events = folded(events)
    return ClosingStream(events, "text/event-stream")


async def _guarded(
    events: AsyncGenerator[bytes, None], failure: Callable[[RequestError], bytes]
) -> AsyncGenerator[bytes, None]:
    try:
        async for event in events:
            yield event
    except RequestError as error:
        yield failure(error)
    except Exception:
        logger.exception("A stream failed")
        yield failure(RequestError("The service failed; its log says why."))
    finally:
        await events.aclose()
