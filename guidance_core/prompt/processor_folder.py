"""A model folder's processor, as far as images need it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

_VIDEOS = "video_processor"

_UNUSED = {_VIDEOS, "feature_extractor"}
"""Parts that only videos and audio need."""


def load_processor(folder: Path, config: Any, *, trust_remote_code: bool) -> Any:
    """Load a processor of transformers; where torchvision is missing, without parts that only videos or audio need.

    Args:
        folder: a Hugging Face model folder.
        config: the model's.
        trust_remote_code: whether Python code from the folder may run.

    Raises:
        ValueError: it cannot be loaded; the message says why.
    """
    from transformers import AutoProcessor
    from transformers.utils.import_utils import is_torchvision_available

    try:
        if not is_torchvision_available() and (processor_class := _class_with_videos(config)) is not None:
            return _load_for_images(processor_class, folder, trust_remote_code=trust_remote_code)
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)  # type: ignore[no-untyped-call]
    except Exception as error:
        reason = first_line(error)
        if not is_torchvision_available() and "pip install" not in reason:
            # transformers has no one exception for that: some are about other things altogether.
            reason += " (perhaps for want of torchvision: `pip install torchvision`)"
        raise ValueError(f"its processor cannot be loaded: {reason}") from error


def first_line(error: Exception) -> str:
    """What an exception says first, for the end of a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _class_with_videos(config: Any) -> Any | None:
    """The processor's class, where it takes videos and images apart from them; None elsewhere."""
    from transformers import PROCESSOR_MAPPING

    processor_class = PROCESSOR_MAPPING.get(type(config), None)
    needed = {"image_processor", "tokenizer", _VIDEOS}
    return processor_class if processor_class is not None and needed <= _parameters(processor_class) else None


def _load_for_images(processor_class: Any, folder: Path, *, trust_remote_code: bool) -> Any:
    """What `from_pretrained` does, but for parts that images do not need: the one for videos needs torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer

    class ForImages(processor_class):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    ForImages.__name__ = processor_class.__name__  # for messages
    options, _ = processor_class.get_processor_dict(folder)
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code),  # type: ignore[no-untyped-call]
        "tokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code),
        **dict.fromkeys(_UNUSED & _parameters(processor_class)),
    }
    return ForImages(**{name: options[name] for name in options.keys() & _parameters(processor_class)} | parts)


def _parameters(processor_class: Any) -> set[str]:
    return set(inspect.signature(processor_class).parameters)
