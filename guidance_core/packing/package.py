"""What is put into the store: files under the names that they get there, and what is said about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class CannotPack(Exception):
    """The model cannot be packed; the message says what is wrong and how to mend it."""


@dataclass(frozen=True, slots=True)
class Package:
    """A model that is ready for `store.publish`.

    Attributes:
        name: name in the store (the part of a tag before the colon).
        files: path inside the stored model (with ``/``) → file to take it from.
        labels: short strings to filter by: ``bentoml models list`` shows them.
        metadata: facts about the model, plain YAML values; None where a fact is not known.
        texts: path inside the stored model → what packing writes there itself.
    """

    name: str
    files: dict[str, Path]
    labels: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of all that is stored."""
        return sum(path.stat().st_size for path in self.files.values()) + sum(map(len, self.texts.values()))
