"""Model folders that differ in their templates and special tokens only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from guidance_core.prompt import PromptTokenizer

from .templates import STYLES, Style

MakeFolder = Callable[..., Path]


def write_folder(folder: Path, vocabulary: Path, style: Style, template_in: str, config: dict[str, Any]) -> None:
    """A model folder with the vocabulary of another one, and a style's special tokens and template."""
    tokenizer = Tokenizer.from_file(str(vocabulary / "tokenizer.json"))
    named = {"bos_token": style.bos, "eos_token": style.eos}
    tokenizer.add_special_tokens([token for token in (*named.values(), *style.others) if token is not None])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **{k: v for k, v in named.items() if v}, **config}
    if template_in == "chat_template.jinja":
        (folder / template_in).write_text(style.source, encoding="utf-8")
    elif template_in == "tokenizer_config.json":
        config["chat_template"] = style.source
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def make_folder(model_path: Path, tmp_path: Path) -> MakeFolder:
    """Makes a model folder of a style, to be changed by the test."""

    def make(style: Style, *, template_in: str = "chat_template.jinja", **config: Any) -> Path:
        write_folder(tmp_path, model_path, style, template_in, config)
        return tmp_path

    return make


@pytest.fixture(scope="session", params=["llama3", "qwen", "mistral", "gemma"])
def style_folder(request: pytest.FixtureRequest, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of each style."""
    folder = tmp_path_factory.mktemp(request.param)
    write_folder(folder, model_path, STYLES[request.param], "chat_template.jinja", {})
    return folder


@pytest.fixture(scope="session")
def style_prompts(style_folder: Path) -> PromptTokenizer:
    """This project's view of the folder."""
    return PromptTokenizer.from_folder(style_folder)


@pytest.fixture(scope="session")
def style_reference(style_folder: Path) -> Any:
    """The view that transformers has of the folder."""
    return AutoTokenizer.from_pretrained(style_folder)
