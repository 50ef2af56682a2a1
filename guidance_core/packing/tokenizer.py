"""The tokenizer of a model folder: which files it is made of, and whether it fits the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from guidance_core.packing.package import CannotPack
from guidance_core.prompt.model_folder import load_chat_templates

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.j2",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)


def tokenizer_files(folder: Path, *, vocab_size: int | None = None) -> dict[str, Path]:
    """Path inside the stored model → file, after a check.

    Args:
        folder: with ``tokenizer.json``.
        vocab_size: of the model, where it is another folder's: no token may lie outside of it.

    Raises:
        CannotPack: there is no fast tokenizer, it is damaged, or it has tokens that the model does not.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.exists():
        raise CannotPack(
            f"{folder} has no tokenizer.json, the fast tokenizer that guidance needs. In Python, transformers' "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r}) makes one."
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CannotPack(f"{file} cannot be read: {error}. Download it again.") from None
    last = max(tokenizer.get_vocab().values(), default=0)
    if vocab_size is not None and last >= vocab_size:
        raise CannotPack(
            f"{file} has tokens up to {last}, but the model has only {vocab_size}: it is another model's tokenizer. "
            "Name the right one with --tokenizer FOLDER."
        )
    return {path.relative_to(folder).as_posix(): path for pattern in FILES for path in sorted(folder.glob(pattern))}


def chat_template_sha256(folder: Path) -> str | None:
    """Names the chat template that is in force, or all where there are several; None where there is none.

    Raises:
        CannotPack: a file that cannot be read.
    """
    try:
        templates = load_chat_templates(folder)
    except ValueError as error:
        raise CannotPack(f"The chat template of {folder} cannot be read: {error}. Download it again.") from None
    if not templates:
        return None
    only = templates["default"] if list(templates) == ["default"] else json.dumps(templates, sort_keys=True)
    return hashlib.sha256(only.encode()).hexdigest()
