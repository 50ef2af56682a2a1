"""What a Hugging Face model folder says about prompts: its tokenizer, special tokens, and chat templates.

The order in which files win is that of `transformers`: ``tokenizer.json`` alone says how text becomes ids;
``chat_template.jinja`` wins over ``tokenizer_config.json``, and that over ``special_tokens_map.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer, without truncation or padding.

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
    named = [token for token in load_special_tokens(folder).values() if tokenizer.token_to_id(token) is not None]
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


def load_chat_templates(folder: Path) -> dict[str, str]:
    """Chat templates by name; empty where the model has none. The usual one is called ``default``."""
    templates = {}
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    if templates:
        return templates
    configured = _read_json(folder / "tokenizer_config.json").get("chat_template")
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
