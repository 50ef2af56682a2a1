from __future__ import annotations

from pathlib import Path

import bentoml
import pytest

from guidance_core.packing import smollm2
from guidance_core.packing.package import CannotPack
from pack_model import main


@pytest.fixture
def checkpoint(model_path: Path, tmp_path: Path) -> Path:
    """The default model as a checkpoint folder of the user's own."""
    folder = tmp_path / "My Model"
    folder.mkdir()
    for file in model_path.iterdir():
        if file.name != "model.yaml":
            (folder / file.name).symlink_to(file)
    return folder


def test_a_folder_is_packed_under_the_given_name_and_described(
    empty_store: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--name", "mine"]) == 0
    model = bentoml.models.get("mine:latest")
    output = capsys.readouterr().out
    assert str(model.tag) in output
    assert "context_length: 8192" in output
    assert model.info.metadata["parameters"] == 134_515_008
    assert model.info.labels["architecture"] == "LlamaForCausalLM"


def test_packing_twice_changes_nothing(empty_store: Path, checkpoint: Path) -> None:
    assert main([str(checkpoint), "--name", "mine"]) == 0
    assert main([str(checkpoint), "--name", "mine"]) == 0
    assert len(bentoml.models.list("mine")) == 1


def test_if_missing_leaves_what_is_there(
    empty_store: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--name", "mine", "--if-missing"]) == 0
    (checkpoint / "generation_config.json").unlink()
    assert main([str(checkpoint), "--name", "mine", "--if-missing"]) == 0
    assert "in the store already" in capsys.readouterr().out
    assert len(bentoml.models.list("mine")) == 1


def test_a_folder_name_that_is_no_tag_is_refused_with_one_that_is(
    empty_store: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint)]) == 1
    assert "--name my-model" in capsys.readouterr().err
    assert bentoml.models.list() == []


def test_what_cannot_be_packed_is_said_on_stderr_and_by_the_exit_status(
    empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_default_model_that_cannot_be_packed_is_an_error(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pack(*, if_missing: bool) -> str:
        raise CannotPack("No network.")

    monkeypatch.setattr(smollm2, "pack", pack)
    assert main([]) == 1
    assert "error: No network." in capsys.readouterr().err


def test_options_that_need_a_folder_are_refused_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--name", "mine"])
    assert "--name goes with FOLDER" in capsys.readouterr().err


def test_list_shows_each_model_with_its_labels(
    empty_store: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--list"]) == 0
    assert "The store is empty" in capsys.readouterr().out
    main([str(checkpoint), "--name", "mine"])
    capsys.readouterr()
    assert main(["--list"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("mine:")
    assert "273 MB" in line
    assert "architecture=LlamaForCausalLM" in line


def test_help_shows_how_to_pack_and_how_to_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert "python pack_model.py ./finetuned --name mine" in text
    assert "GUIDED_TRTLLM_MODEL__TAG=" in text
