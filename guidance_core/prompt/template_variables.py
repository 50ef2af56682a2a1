"""Further variables that a request gives a template: none is dropped, none replaces what the request itself says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from guidance_core.errors import InvalidRequest, Unsupported

PARAM = "chat_template_kwargs"
"""The request's field that has them."""


def check_variables(variables: Mapping[str, Any], *, reserved: Collection[str], read: Collection[str]) -> None:
    """Refuse variables that would have no effect.

    ``None`` and ``False`` may be given to any template: they ask for nothing.

    Args:
        variables: of the request.
        reserved: which the request sets by fields of its own.
        read: which the template asks for.

    Raises:
        InvalidRequest: a reserved one.
        Unsupported: one that the template does not ask for.
    """
    for name in sorted(variables):
        if name in reserved:
            raise InvalidRequest(
                f"The template variable {name!r} is set by the request itself: leave it out of the variables.",
                param=PARAM,
            )
        if name not in read and variables[name] is not None and variables[name] is not False:
            raise Unsupported(f"The model's chat template knows no variable {name!r}: leave it out.", param=PARAM)
