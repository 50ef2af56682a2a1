"""Reads the JSON files of model folders, with errors that say how to mend them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidance_core.packing.package import CannotPack


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        CannotPack: it is missing, or holds no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotPack(f"{file} is missing. Name a checkpoint folder as a model hub has it.") from None
    except ValueError as error:
        raise CannotPack(f"{file} is not valid JSON ({error}). Download it again.") from None
    if not isinstance(content, dict):
        raise CannotPack(f"{file} does not hold a JSON object. Download it again.")
    return content


def read_json_if_there(file: Path) -> dict[str, Any]:
    """As `read_json`; empty where there is no such file."""
    return read_json(file) if file.exists() else {}
