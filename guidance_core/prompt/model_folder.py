"""What a Hugging Face model folder says about prompts: its tokenizer, special tokens, and chat templates.

The order in which files win is that of `transformers`: ``tokenizer.json`` alone says how text becomes ids;
``chat_template.jinja`` wins over ``tokenizer_config.json``, and that over ``special_tokens_map.json``. Before all of
them comes ``chat_template.j2``, llgtrt's name for the template of who serves the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_tokenizer(folder: Path, special_tokens: Mapping[str, str] | None = None) -> Tokenizer:
    """The folder's tokenizer, without truncation or padding.

    Args:
        folder: of the model.
        special_tokens: tokens that are special besides those that it says are.

    Raises:
        FileNotFoundError: the folder has no ``tokenizer.json``; the message says how to make one.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json. Write one with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(_read_json(folder / "tokenizer_config.json").get("split_special_tokens"))
    # A token that the configuration names (`eos_token`, …) is special even where tokenizer.json forgot to say so.
    tokens = [*load_special_tokens(folder).values(), *(special_tokens or {}).values()]
    named = [token for token in tokens if tokenizer.token_to_id(token) is not None]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in named if token not in known]
    )
    return tokenizer


def load_special_tokens(folder: Path) -> dict[str, str]:
    """Named special tokens (``bos_token`` → ``<s>``, …), among them a model's own (``image_token``, …)."""
    config = {
        **_read_json(folder / "special_tokens_map.json"),
        **_read_json(folder / "tokenizer_config.json"),
    }
    extra = config.get("extra_special_tokens")
    named = {
        **{key: value for key, value in config.items() if key in SPECIAL_TOKEN_NAMES or key.endswith("_token")},
        **(config.get("model_specific_special_tokens") or {}),
        **(extra if isinstance(extra, dict) else {}),
    }
    tokens = {name: _token_text(value) for name, value in named.items()}
    return {name: text for name, text in tokens.items() if text is not None}


def token_id(tokenizer: Tokenizer, token: str, setting: str) -> int:
    """The id of a token that a setting names.

    Raises:
        ValueError: the model has no such token.
    """
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"{setting} is {token!r}, which is no token of this model: name one of its tokenizer.json.")
    return found


def end_token_ids(folder: Path, eos_token: str | None) -> tuple[int, ...] | None:
    """The end tokens that the setting ``model.eos_token`` makes; None where it is not set.

    Raises:
        FileNotFoundError: see `load_tokenizer`.
        ValueError: see `token_id`.
    """
    return None if eos_token is None else (token_id(load_tokenizer(folder), eos_token, "model.eos_token"),)


def is_template(setting: str) -> bool:
    """Whether the setting ``model.chat_template`` is a template itself, not the name of a file."""
    return "{{" in setting or "{%" in setting


def chat_template_sources(folder: Path, setting: str | None) -> dict[str, str]:
    """The chat templates in force, by name.

    Args:
        folder: of the model.
        setting: ``model.chat_template``: a file, or the template itself.

    Raises:
        OSError: the file cannot be read.
    """
    if setting is None:
        return load_chat_templates(folder)
    return {"default": setting if is_template(setting) else Path(setting).read_text(encoding="utf-8")}


def load_chat_templates(folder: Path) -> dict[str, str]:
    """Chat templates by name; empty where the model has none. The usual one is called ``default``."""
    if (folder / "chat_template.j2").is_file():
        return {"default": (folder / "chat_template.j2").read_text(encoding="utf-8")}
    templates = {}
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    if templates:
        return templates
    # Processors of images kept theirs in a file of its own, before all templates went to one.
    configured = _read_json(folder / "chat_template.json").get("chat_template")
    configured = configured or _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(configured, str):
        return {"default": configured}
    return {template["name"]: template["template"] for template in configured or []}


def _token_text(value: Any) -> str | None:
    """A token as configurations write it: a string, or an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
