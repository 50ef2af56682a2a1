"""The tokenizer of a model folder: which files it is made of, and whether it fits the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from guidance_core.packing.json_files import read_json_if_there
from guidance_core.packing.package import CannotPack

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
    """Names the chat template, where there is one."""
    template = _chat_template(folder)
    return hashlib.sha256(template.encode()).hexdigest() if template else None


def _chat_template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = read_json_if_there(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        return json.dumps(template, sort_keys=True)
    return template or ""
