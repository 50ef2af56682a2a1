"""How a JSON schema is refused."""

from __future__ import annotations

from typing import NoReturn

from guidance_core.errors import InvalidGrammar


def refuse(path: str, problem: str) -> NoReturn:
    """Raise the refusal of a schema.

    Args:
        path: the place, as a JSON pointer with or without its first slash; "" for the whole.
        problem: continues "The JSON schema at place: …", without a full stop.

    Raises:
        InvalidGrammar: always.
    """
    place = f"The JSON schema at #/{path.lstrip(chr(47))}" if path else "The JSON schema"
    raise InvalidGrammar(f"{place}: {problem}.")
