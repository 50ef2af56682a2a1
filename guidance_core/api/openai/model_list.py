"""The served model and its adapters, as ``GET /v1/models`` tells of them."""

from __future__ import annotations

from typing import Any

from guidance_core.api.served_model import ServedModel


def model_list(served: ServedModel) -> dict[str, Any]:
    """All of them, the model first."""
    adapters = [_adapter_card(served, name) for name in served.adapters()]
    return {"object": "list", "data": [_card(served), *adapters]}


def model_card(served: ServedModel, name: str) -> dict[str, Any] | None:
    """One of them by its name; None where there is none of this name."""
    if name in served.adapters():
        return _adapter_card(served, name)
    return _card(served) if name == served.name else None


def _card(served: ServedModel) -> dict[str, Any]:
    card = {"id": served.name, "object": "model", "created": served.created, "owned_by": "guided-trtllm"}
    return {**card, "executor": {"name": served.settings.executor, **served.details()}}


def _adapter_card(served: ServedModel, name: str) -> dict[str, Any]:
    return {**_card(served), "id": name, "parent": served.name}
