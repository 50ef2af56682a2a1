"""The stand-in for TensorRT-LLM, and what it runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STANDIN = Path(__file__).parent / "standin"

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


@pytest.fixture(scope="module")
def tensorrt_llm() -> Iterator[None]:
    """`import tensorrt_llm` gives the stand-in."""
    sys.path.insert(0, str(STANDIN))
    yield
    sys.path.remove(str(STANDIN))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def checkpoint(tiny_llama: Path) -> Path:
    """What TensorRT-LLM's PyTorch backend runs."""
    return tiny_llama


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """What the stand-in takes for an engine that was compiled from the checkpoint."""
    return compile_engine(checkpoint, tmp_path_factory.mktemp("models") / "engine", max_seq_len=512, max_batch_size=8)


def compile_engine(checkpoint: Path, folder: Path, **build: Any) -> Path:
    """An engine's folder: its config.json has what `trtllm-build` writes there, as far as it is read."""
    folder.mkdir()
    model = json.loads((checkpoint / "config.json").read_text())
    config = {
        "version": "1.2.1",
        "pretrained_config": {
            "architecture": model["architectures"][0],
            "dtype": "float32",
            **{name: model[name] for name in _SIZES},
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        },
        "build_config": {
            "max_input_len": 511,
            "max_num_tokens": 8192,
            "max_beam_width": 1,
            **build,
            "plugin_config": {"use_paged_context_fmha": True, **build.get("plugin_config", {})},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "rank0.engine").write_text(json.dumps(str(checkpoint)))
    for pattern in ("*token*.json", "generation_config.json", "chat_template*"):
        for path in checkpoint.glob(pattern):
            shutil.copy(path, folder)
    return folder
