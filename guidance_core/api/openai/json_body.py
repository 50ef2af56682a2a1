"""The bytes of a body → JSON, or an error that says what they are instead."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import from_json

from guidance_core.errors import InvalidRequest

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_NOT_A_NUMBER = re.compile(rb"NaN|Infinity")


def read_json(data: bytes, *, encoding: str) -> Any:
    """A parsed body. Of a name that an object has twice, the last value counts, as almost everywhere.

    Args:
        data: as they were sent.
        encoding: of HTTP (``Content-Encoding``), which is not undone.

    Raises:
        InvalidRequest: no JSON in UTF-8.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        if encoding != "identity":
            raise InvalidRequest(
                f"The body has the Content-Encoding {encoding!r}, which is not read here: send it uncompressed.",
                code="unsupported_content_encoding",
            ) from None
        raise InvalidRequest(_problem(data, str(error)), code="invalid_json") from None


def _problem(data: bytes, why: str) -> str:
    """What is wrong with a body, of which the parser only says where it stopped."""
    if not data.strip():
        return "The body is empty: send a JSON object."
    if data.startswith(_UTF8_MARK):
        return "The body begins with a byte order mark, which JSON must not: leave it out."
    if data.startswith(_UTF16_MARKS) or b"\x00" in data[:2]:
        return "The body is not UTF-8, but perhaps UTF-16: encode it as UTF-8."
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"The body is not UTF-8 from its byte {error.start} on: encode it as UTF-8."
    if "recursion limit" in why:
        return f"The body is nested too deep to be read: {why}."
    hint = ""
    if "hex escape" in why:
        hint = " (half of a surrogate pair, such as \\ud83d alone, is no character)"
    elif _NOT_A_NUMBER.search(data):
        hint = " (JSON has neither NaN nor Infinity)"
    return f"The body is not valid JSON: {why}{hint}."
