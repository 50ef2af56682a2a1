"""Which adapters are in memory: loaded on first use, the one that has not been used for the longest gives way."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.executors.torch.lora import LoadedAdapter
from guidance_core.executors.torch.lora_file import BadAdapter, LayerDelta
from guidance_core.generation import LoraAdapter

_log = logging.getLogger(__name__)

Read = Callable[[Path], dict[str, LayerDelta]]
"""An adapter's folder → its deltas; raises `BadAdapter`."""


class LoraCache:
    """Adapters by name.

    Args:
        read: reads one.
        max_loaded: most of them in memory; those that sequences use are never dropped.
    """

    def __init__(self, read: Read, max_loaded: int) -> None:
        self._read = read
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[str, LoadedAdapter] = OrderedDict()
        self._uses: Counter[LoadedAdapter] = Counter()
        self._last_id = 0

    @property
    def names(self) -> list[str]:
        """The adapters that are loaded, the one that was used last at the end."""
        return list(self._loaded)

    def has_room(self, wanted: LoraAdapter) -> bool:
        """Whether `acquire` could have it now; otherwise sequences must end first."""
        if wanted.load == "never" or (wanted.load == "auto" and wanted.name in self._loaded):
            return True
        return len(self._uses) < self._max_loaded

    def acquire(self, wanted: LoraAdapter) -> LoadedAdapter:
        """The adapter, which stays until it is released as often as it was acquired. There must be room.

        Raises:
            InvalidRequest: it is not loaded, and is not to be.
            Unsupported: it cannot be served; the message says why.
        """
        adapter = self._loaded.get(wanted.name)
        if adapter is None and wanted.load == "never":
            raise InvalidRequest(
                f"The adapter {wanted.name!r} is not loaded, and 'load_lora_weights' is 'never': send 'auto'.",
                param="load_lora_weights",
            )
        if adapter is None or wanted.load == "always":
            adapter = self._load(wanted)
        self._loaded.move_to_end(wanted.name)
        self._uses[adapter] += 1
        return adapter

    def release(self, adapter: LoadedAdapter) -> None:
        """One sequence less uses it."""
        self._uses[adapter] -= 1
        if not self._uses[adapter]:
            del self._uses[adapter]  # so that the keys are the adapters in use

    def _load(self, wanted: LoraAdapter) -> LoadedAdapter:
        try:
            deltas = self._read(Path(wanted.path))
        except BadAdapter as error:
            raise Unsupported(f"The adapter {wanted.name!r} cannot be served: {error}.", param="lora_model") from None
        # One that was loaded before and is in use lives on with those that use it.
        self._loaded.pop(wanted.name, None)
        for name in [name for name, adapter in self._loaded.items() if adapter not in self._uses]:
            if len(self._held()) < self._max_loaded:
                break
            del self._loaded[name]
            _log.info("The adapter %r made room for %r.", name, wanted.name)
        self._last_id += 1
        adapter = self._loaded[wanted.name] = LoadedAdapter(self._last_id, deltas)
        return adapter

    def _held(self) -> set[LoadedAdapter]:
        """All adapters whose weights are in memory."""
        return {*self._loaded.values(), *self._uses}
