"""JSON out of parts of which some are written already.

Most of an answer with log-probabilities is tokens' texts and bytes, which are the same whenever a token comes: each
token's JSON is written once (`output.token_spelling`) and put together here, byte for byte as `json` would write it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

from starlette.responses import Response


class Json(str):
    """Text that is JSON."""

    __slots__ = ()


def json_ascii(value: Any) -> str:
    """A value as JSON in ASCII, for events: clients exist that end a line at U+2028, where SSE does not.

    Args:
        value: dictionaries by strings, lists, strings, numbers, booleans, None, and `Json` anywhere among them.
    """
    return _written(value, encode_basestring_ascii, _encode_ascii)


def finite(logprob: float) -> float:
    """A log-probability as JSON can say it: OpenAI writes -9999 for a token that is as good as impossible."""
    return logprob if logprob > -9999.0 else -9999.0


def logprob_json(logprob: float) -> str:
    """`finite`, written."""
    return float.__repr__(finite(logprob))


class JsonBody(Response):
    """A whole answer as JSON in UTF-8; see `json_ascii` for what it takes. There are no infinities in it."""

    media_type = "application/json"

    def __init__(self, value: Any) -> None:
        """Answer 200."""
        super().__init__(b"".join([part.encode() for part in _parts(value)]))


def json_unicode(value: Any) -> Json:
    """A part of a `JsonBody`, written ahead."""
    return Json(_written(value, encode_basestring, _encode_unicode))


def _parts(value: Any) -> Iterator[str]:
    """What a body is made of. The items of its lists are apart: as one text they would be copied again and again."""
    if not isinstance(value, dict):
        yield json_unicode(value)
        return
    before = "{"
    for key, item in value.items():
        yield f"{before}{encode_basestring(key)}:"
        before = ","
        if not isinstance(item, list) or not item:
            yield json_unicode(item)
            continue
        for place, part in enumerate(item):
            yield f"{',' if place else '['}"
            yield json_unicode(part)
        yield "]"
    yield "}" if value else "{}"


_encode_ascii = json.JSONEncoder(separators=(",", ":")).encode
_encode_unicode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _written(value: Any, quote: Callable[[str], str], encode: Callable[[Any], str]) -> str:
    kind = type(value)
    if kind is Json:
        return value  # type: ignore[no-any-return]
    if kind is str:
        return quote(value)
    if kind is dict:
        return "{" + ",".join([f"{quote(key)}:{_written(item, quote, encode)}" for key, item in value.items()]) + "}"
    if kind is list:
        return "[" + ",".join([_written(item, quote, encode) for item in value]) + "]"
    if value is None:
        return "null"
    if kind is int:
        return int.__repr__(value)
    return encode(value)
