"""Compiling, against stand-ins that take the arguments of TensorRT-LLM 1.2 and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guidance_core.packing.build import BuildOptions, plan, run
from guidance_core.packing.package import CannotPack

# The parsers below have the names, types and choices of tensorrt_llm/commands/build.py and of
# examples/models/core/llama/convert_checkpoint.py, as far as they are used; argparse refuses what they lack.
TRTLLM_BUILD = """\
import argparse, json, pathlib, sys
sys.path.insert(0, {root!r})
from tests.packing.engines import make_engine
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--checkpoint_dir", required=True)
parser.add_argument("--output_dir", required=True)
parser.add_argument("--kv_cache_type", choices=["continuous", "paged", "disabled"])
parser.add_argument("--use_paged_context_fmha", choices=["enable", "disable"])
parser.add_argument("--gemm_plugin", choices=["auto", "float16", "bfloat16", "fp8", "disable"])
for name in ("workers", "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width"):
    parser.add_argument("--" + name, type=int)
options = parser.parse_args()
mapping = json.loads((pathlib.Path(options.checkpoint_dir) / "config.json").read_text())["mapping"]
assert options.workers == mapping["world_size"], options
limits = dict(max_seq_len=options.max_seq_len, max_input_len=options.max_input_len)
make_engine(pathlib.Path(options.output_dir), gpus=mapping["world_size"], **limits)
print("[TRT-LLM] [I] Total time of building all engines: 00:00:00")
"""

CONVERTER = """\
import argparse, json, pathlib
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model_dir", required=True)
parser.add_argument("--output_dir", default="tllm_checkpoint")
parser.add_argument("--dtype", choices=["auto", "float16", "bfloat16", "float32"], default="auto")
parser.add_argument("--tp_size", type=int, default=1)
parser.add_argument("--pp_size", type=int, default=1)
parser.add_argument("--use_weight_only", action="store_true")
options = parser.parse_args()
assert (pathlib.Path(options.model_dir) / "model.safetensors.index.json").exists()
output = pathlib.Path(options.output_dir)
output.mkdir()
mapping = dict(world_size=options.tp_size * options.pp_size, tp_size=options.tp_size, pp_size=options.pp_size)
(output / "config.json").write_text(json.dumps(dict(architecture="LlamaForCausalLM", mapping=mapping)))
(output / "rank0.safetensors").write_bytes(b"weights")
(output / "arguments.json").write_text(json.dumps(vars(options)))
"""

LLM_API = """\
import pathlib, sys
sys.path.insert(0, {root!r})
from tests.packing.engines import make_engine
class LLM:
    def __init__(self, model, *, skip_tokenizer_init, dtype, tensor_parallel_size, pipeline_parallel_size,
                 build_config):
        assert (pathlib.Path(model) / "config.json").exists()
        self.gpus, self.limits = tensor_parallel_size * pipeline_parallel_size, build_config.limits
    def save(self, engine_dir: str) -> None:
        make_engine(pathlib.Path(engine_dir), gpus=self.gpus, **self.limits)
    def shutdown(self) -> None:
        pass
class BuildConfig:
    def __init__(self, *, max_input_len=1024, max_seq_len=None, max_batch_size=2048, max_num_tokens=8192):
        self.limits = dict(max_input_len=max_input_len, max_seq_len=max_seq_len, max_batch_size=max_batch_size)
"""


@pytest.fixture
def trtllm_build(path_with: Path, pytestconfig: pytest.Config) -> Path:
    """A ``trtllm-build`` in ``PATH``."""
    command = path_with / "trtllm-build"
    command.write_text(f"#!{sys.executable}\n" + TRTLLM_BUILD.format(root=str(pytestconfig.rootpath)))
    command.chmod(0o755)
    return command


@pytest.fixture
def converter(tmp_path: Path) -> Path:
    file = tmp_path / "convert_checkpoint.py"
    file.write_text(CONVERTER)
    return file


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def build_config(scratch: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((scratch / "engine" / "config.json").read_text())["build_config"]
    return config


def test_a_checkpoint_is_converted_and_compiled_for_its_whole_context(
    checkpoint: Path, converter: Path, trtllm_build: Path, scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = BuildOptions(
        tensor_parallel_size=2,
        dtype="bfloat16",
        converter=converter,
        convert_args=("--use_weight_only",),
        build_args=("--gemm_plugin", "auto"),
    )
    with caplog.at_level("INFO"):
        run(plan(checkpoint, options, scratch))
    assert sorted(path.name for path in (scratch / "engine").glob("*.engine")) == ["rank0.engine", "rank1.engine"]
    assert (build_config(scratch)["max_seq_len"], build_config(scratch)["max_input_len"]) == (64, 64)
    converted = json.loads((scratch / "checkpoint" / "arguments.json").read_text())
    assert converted["use_weight_only"] is True
    assert converted["dtype"] == "bfloat16"
    assert "Step 1 of 2: Converting the checkpoint: " in caplog.text
    assert "Step 2 of 2: Compiling the engine: trtllm-build " in caplog.text


def test_a_checkpoint_of_tensorrt_llm_is_compiled_without_converter(
    checkpoint: Path, converter: Path, trtllm_build: Path, scratch: Path
) -> None:
    steps = plan(checkpoint, BuildOptions(converter=converter), scratch)
    run(steps[:1])
    converted = scratch / "checkpoint"
    with pytest.raises(CannotPack, match="converted for tensor parallel 1 and pipeline parallel 1: say --tp 1 --pp 1"):
        plan(converted, BuildOptions(tensor_parallel_size=4), scratch)
    with pytest.raises(CannotPack, match="leave --converter out"):
        plan(converted, BuildOptions(converter=converter), scratch)
    run(plan(converted, BuildOptions(max_seq_len=32, max_input_len=16), scratch))
    assert (build_config(scratch)["max_seq_len"], build_config(scratch)["max_input_len"]) == (32, 16)


def test_the_llm_api_compiles_where_no_converter_is_named(
    checkpoint: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    package = tmp_path / "site" / "tensorrt_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for module in ("_tensorrt_engine", "llmapi"):
        (package / f"{module}.py").write_text(LLM_API.format(root=str(pytestconfig.rootpath)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{pytestconfig.rootpath}")
    run(plan(checkpoint, BuildOptions(tensor_parallel_size=2, max_batch_size=4, max_seq_len=48), scratch))
    assert (scratch / "engine" / "rank1.engine").exists()
    built = build_config(scratch)
    assert (built["max_seq_len"], built["max_input_len"], built["max_batch_size"]) == (48, 48, 4)


def test_without_tensorrt_llm_the_llm_api_says_what_is_missing(
    checkpoint: Path, scratch: Path, pytestconfig: pytest.Config
) -> None:
    (step,) = plan(checkpoint, BuildOptions(), scratch)
    finished = subprocess.run(step.command, capture_output=True, text=True, check=False, cwd=pytestconfig.rootpath)
    assert finished.returncode == 1
    assert "compiled by TensorRT-LLM 1.0 to 1.2, which cannot be imported here" in finished.stderr


def test_without_trtllm_build_it_is_said_where_there_is_one(
    checkpoint: Path, converter: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, path_with: Path
) -> None:
    steps = plan(checkpoint, BuildOptions(converter=converter), scratch)
    monkeypatch.setenv("PATH", str(path_with))
    with pytest.raises(CannotPack, match=r"no trtllm-build here.*image of TensorRT-LLM"):
        run(steps[1:])


def test_a_step_that_fails_ends_the_build_with_the_command_to_repeat(
    checkpoint: Path, converter: Path, trtllm_build: Path, scratch: Path
) -> None:
    options = BuildOptions(converter=converter, convert_args=("--no-such-option",))
    with pytest.raises(CannotPack, match=r"Converting the checkpoint failed with exit status 2.*--no-such-option"):
        run(plan(checkpoint, options, scratch))
    assert not (scratch / "engine").exists()


def test_options_of_commands_that_do_not_run_are_refused(checkpoint: Path, scratch: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotPack, match="go with --converter FILE"):
        plan(checkpoint, BuildOptions(build_args=("--gemm_plugin", "auto")), scratch)
    with pytest.raises(CannotPack, match="is not a file"):
        plan(checkpoint, BuildOptions(converter=tmp_path / "gone.py"), scratch)


def test_a_long_step_gives_signs_of_life(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from guidance_core.packing import build

    monkeypatch.setattr(build, "_SIGN_OF_LIFE_SECONDS", 0.05)
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'seen')!r}).exists(): time.sleep(0.01)"

    class Seen:
        def filter(self, record: object) -> bool:
            if "so far" in str(getattr(record, "msg", "")):
                (tmp_path / "seen").touch()
            return True

    build.logger.addFilter(seen := Seen())
    try:
        with caplog.at_level("INFO"):
            run([build.Step("Waiting", (sys.executable, "-c", waits))])
    finally:
        build.logger.removeFilter(seen)
    assert "Waiting took" in caplog.text
