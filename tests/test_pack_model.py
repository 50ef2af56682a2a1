from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bentoml
import pytest

from guidance_core.packing import build, gpu, smollm2
from guidance_core.packing.package import CannotPack
from pack_model import how_to_serve, main
from tests.packing.engines import make_engine


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


def test_a_store_that_cannot_be_written_is_an_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = str(tmp_path / "file" / "bentoml")
    packing = subprocess.run(
        [sys.executable, "pack_model.py", "--if-missing"],
        env={**os.environ, "BENTOML_HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    assert packing.returncode == 1
    last = packing.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert f"The store is in {home} (BENTOML_HOME), which must be writable." in last
    assert "Traceback" not in packing.stderr


def test_a_file_that_cannot_be_read_is_named_and_not_blamed_on_the_store(
    empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "model" / "config.json"
    config.mkdir(parents=True)
    assert main([str(tmp_path / "model")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {config} cannot be read: Is a directory."


def test_options_that_need_a_folder_are_refused_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--name", "mine"])
    assert "--name goes with FOLDER" in capsys.readouterr().err


def test_an_engine_is_packed_with_the_way_to_serve_it(
    empty_store: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(tmp_path / "engine", max_batch_size=4)
    assert main([str(engine), "--tokenizer", str(checkpoint), "--gpu", "H100", "--name", "mine"]) == 1
    assert "another model's tokenizer" in capsys.readouterr().err
    config = json.loads((engine / "config.json").read_text())
    config["pretrained_config"]["vocab_size"] = 49152
    (engine / "config.json").write_text(json.dumps(config))
    assert main([str(engine), "--tokenizer", str(checkpoint), "--gpu", "H100", "--name", "mine"]) == 0
    model = bentoml.models.get("mine:latest")
    assert model.info.metadata["compute_capability"] == "9.0"
    assert model.info.metadata["max_batch_size"] == 4
    output = capsys.readouterr().out
    assert "GUIDED_TRTLLM_EXECUTOR=trtllm GUIDED_TRTLLM_MODEL__TAG=mine bentoml serve ." in output


def test_build_compiles_and_packs_under_the_checkpoints_name(
    empty_store: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def compile_engine(steps: list[build.Step]) -> None:
        commands.extend(steps)
        engine = Path(steps[-1].command[steps[-1].command.index("--output") + 1])
        make_engine(engine)
        config = json.loads((engine / "config.json").read_text())
        config["pretrained_config"]["vocab_size"] = 49152
        (engine / "config.json").write_text(json.dumps(config))

    monkeypatch.setattr(build, "run", compile_engine)
    monkeypatch.setattr(gpu, "visible_gpus", lambda: [gpu.Gpu("NVIDIA L40S", "8.9")])
    assert main([str(checkpoint), "--build", "--tp", "2", "--max-seq-len", "4096", "--name", "mine"]) == 0
    assert "--tensor-parallel-size 2" in str(commands[0])
    assert "max_seq_len=4096" in str(commands[0])
    facts = bentoml.models.get("mine:latest").info.metadata
    assert (facts["source"], facts["gpu"], facts["format"]) == (str(checkpoint), "NVIDIA L40S", "tensorrt-engine")


def test_a_dry_run_prints_the_plan_and_stores_nothing(
    empty_store: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--name", "mine", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "Would be packed as mine, 273 MB:" in output
    assert f"model.safetensors  from {checkpoint / 'model.safetensors'}" in output
    assert "kv_bytes_per_token: 23040.0" in output
    converter = tmp_path / "convert_checkpoint.py"
    converter.write_text("")
    assert main([str(checkpoint), "--name", "mine", "--dry-run", "--build", "--converter", str(converter)]) == 0
    output = capsys.readouterr().out
    assert "1. Converting the checkpoint:" in output
    assert "2. Compiling the engine:\n   trtllm-build --checkpoint_dir" in output
    assert bentoml.models.list() == []


def test_options_of_a_build_are_refused_without_one(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(checkpoint), "--max-seq-len", "4096"])
    assert "--max-seq-len goes with --build" in capsys.readouterr().err


def test_what_no_executor_runs_is_said_when_it_is_packed() -> None:
    text = how_to_serve("mine", {"executor": "none", "quantization": "gptq"}, {}, Path("/store"))
    assert "--build --converter" in text


def test_a_repository_is_served_by_starting_triton_on_it() -> None:
    text = how_to_serve(
        "mine", {"executor": "triton"}, {"triton_model": "ensemble", "context_length": 4096}, Path("/store/mine/v1")
    )
    assert "cd /store/mine/v1 && tritonserver --model-repository=triton_model_repository" in text
    assert "GUIDED_TRTLLM_EXECUTOR=triton" in text
    assert "GUIDED_TRTLLM_TRITON__MODEL=ensemble" in text
    assert "GUIDED_TRTLLM_TRITON__MAX_MODEL_LEN=4096" in text


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


def test_a_reader_that_has_had_enough_is_not_told_of_the_store() -> None:
    command = f"{sys.executable} pack_model.py --list | true"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stderr == ""


def test_help_shows_how_to_pack_and_how_to_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert "python pack_model.py ./finetuned --name mine" in text
    assert "GUIDED_TRTLLM_MODEL__TAG=" in text
