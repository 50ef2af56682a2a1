"""The folder with a model's adapters: which there are, and what a client may reach in it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from guidance_core.errors import InvalidRequest, ModelNotFound
from guidance_core.generation import LoadLoraWeights, LoraAdapter

_log = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
"""PEFT's names."""


class LoraFolder:
    """Sub-folders of one folder, each an adapter. Read anew each time: adapters may come and go while it serves.

    Args:
        path: the folder.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ValueError(f"lora.folder is {str(path)!r}, but there is no such folder: create it, or unset it.")
        self._root = path.resolve()

    def names(self) -> list[str]:
        """The adapters that there are, in alphabetical order; none while the folder cannot be read."""
        try:
            found = list(self._root.iterdir())
        except OSError as error:
            _log.warning("The adapters in lora.folder cannot be listed: %s", error)
            return []
        return sorted(path.name for path in found if self._is_adapter(path))

    def __contains__(self, name: str) -> bool:
        return _is_plain(name) and self._is_adapter(self._root / name)

    def get(self, name: str, load: LoadLoraWeights = "auto", *, param: str) -> LoraAdapter:
        """An adapter.

        Args:
            name: what the client calls it.
            load: when its weights are to be read.
            param: the request field that names it.

        Raises:
            InvalidRequest: the name, or a link, leads out of the folder.
            ModelNotFound: there is no such adapter.
        """
        if not _is_plain(name):
            raise InvalidRequest(
                f"{name!r} is no adapter's name: a name has neither slashes nor is it '.' or '..'.", param=param
            )
        path = self._root / name
        if not _has_config(path):
            known = ", ".join(map(repr, self.names())) or "none"
            raise ModelNotFound(f"There is no adapter {name!r}; there are: {known}.", param=param)
        if not self._is_inside(path):
            raise InvalidRequest(f"The adapter {name!r} lies outside of the folder of adapters.", param=param)
        return LoraAdapter(name, str(path), load)

    def _is_adapter(self, path: Path) -> bool:
        return _has_config(path) and self._is_inside(path)

    def _is_inside(self, path: Path) -> bool:
        """Whether an adapter's files are in the folder themselves, not by a link."""
        files = (path, path / CONFIG_FILE, path / WEIGHTS_FILE)
        # Not `Path.resolve`, which fails where links go in a circle.
        return all(Path(os.path.realpath(file)).is_relative_to(self._root) for file in files)


def _has_config(path: Path) -> bool:
    # Not `Path.is_file`, which fails where a name is too long for the file system.
    return os.path.isfile(path / CONFIG_FILE)


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not any(sign in name for sign in "/\\\0")
