"""What TensorRT-LLM is asked to load, and who enforces grammars then."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guidance_core.config import Settings
from guidance_core.executors.trtllm import installation
from guidance_core.executors.trtllm.link import Address
from guidance_core.executors.trtllm.loading import load

pytestmark = pytest.mark.usefixtures("tensorrt_llm")


class Llm:
    """Takes what `LLM` takes, and loads nothing."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def shutdown(self) -> None:
        """Nothing runs."""


@pytest.fixture(autouse=True)
def nothing_runs(tensorrt_llm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = installation.load("checkpoint")
    monkeypatch.setattr(installation, "load", lambda kind: replace(installed, llm=Llm))


def loaded(folder: Path, **settings: Any) -> tuple[str, bool, bool]:
    """The way of guidance, and whether TensorRT-LLM makes its own llguidance and a tokenizer for it."""
    made = load(folder, Settings.model_validate(settings), Address("", b""))
    try:
        own = made.llm.arguments["guided_decoding_backend"] == "llguidance"
        return made.way, own, not made.llm.arguments["skip_tokenizer_init"]
    finally:
        made.close()


def test_its_own_llguidance_is_made_where_it_keeps_grammars_as_ours_does(checkpoint: Path) -> None:
    assert loaded(checkpoint) == ("engine", True, True)
    assert loaded(checkpoint, trtllm={"guidance": "processor"}) == ("processor", False, False)


def test_its_own_llguidance_is_not_made_where_grammars_have_other_limits(checkpoint: Path) -> None:
    assert loaded(checkpoint, guidance={"max_items_in_row": 500}) == ("processor", False, False)


def test_its_own_llguidance_is_not_made_for_a_tokenizer_without_an_end_token(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("tokenizer_config.json", "special_tokens*"))
    assert loaded(folder) == ("processor", False, False)


def test_its_own_llguidance_is_not_made_for_a_model_without_a_fast_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    assert loaded(tmp_path / "model") == ("processor", False, False)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_checkpoint_with_code_of_its_own_is_refused_unless_that_is_trusted(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    """TensorRT-LLM would run it, whatever it is told (``create_input_processor`` in ``inputs/registry.py``)."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(content | {"auto_map": {"AutoConfig": "code.Config"}}))
    with pytest.raises(ValueError, match=rf"{name} names Python code .* model\.trust_remote_code"):
        loaded(folder)
    assert loaded(folder, model={"trust_remote_code": True}, trtllm={"guidance": "processor"})[0] == "processor"
