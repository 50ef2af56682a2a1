"""What the served model's folder says about a model that runs elsewhere. No weights are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidance_core.errors import ExecutorUnavailable
from guidance_core.executors.base import ModelLimits
from guidance_core.prompt.model_folder import end_token_ids


def read_limits(
    folder: Path, max_model_len: int | None, *, eos_token: str | None = None, vocab_size: int | None = None
) -> ModelLimits:
    """Vocabulary, context and end tokens, from ``config.json`` and ``generation_config.json``.

    Args:
        folder: of a Hugging Face model.
        max_model_len: the context that the server's engine was built for; None takes the model's own.
        eos_token: the one end token, in place of the model's own.
        vocab_size: width of the server's logits, in place of what config.json says.

    Raises:
        ExecutorUnavailable: the folder does not say; the message names what is missing.
        ValueError: there is no such end token.
    """
    config = _read(folder / "config.json")
    # Models for images and text keep the language model's settings one level down.
    config = {**config, **(config.get("text_config") or {})}
    ends: Any = end_token_ids(folder, eos_token)
    if ends is None:
        ends = _read(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
    width: Any = vocab_size or config.get("vocab_size")
    context: Any = max_model_len or config.get("max_position_embeddings")
    found = {"vocab_size": width, "max_position_embeddings": context, "eos_token_id": ends}
    missing = [name for name, value in found.items() if value in (None, [])]
    if missing:
        raise ExecutorUnavailable(
            f"{folder} does not say {', '.join(missing)}: pack the model with the config.json of its checkpoint"
            + (", or set triton.max_model_len." if "max_position_embeddings" in missing else ".")
        )
    return ModelLimits(int(width), int(context), (ends,) if isinstance(ends, int) else tuple(ends))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
