"""Compiles an engine with the TensorRT-LLM that is installed here.

Of a TensorRT-LLM checkpoint with ``trtllm-build``; of a Hugging Face checkpoint with ``convert_checkpoint.py`` (its
folder in TensorRT-LLM's ``examples/models`` is named after the model's family) and ``trtllm-build``, or through the LLM
API. Options: ``tensorrt_llm/commands/build.py`` and ``examples/models/core/llama/convert_checkpoint.py``.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidance_core.packing.json_files import read_json
from guidance_core.packing.package import CannotPack
from guidance_core.packing.source import is_trtllm_checkpoint

logger = logging.getLogger(__name__)

_SIGN_OF_LIFE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What an engine is to be built for.

    Attributes:
        tensor_parallel_size, pipeline_parallel_size: GPUs; each gets one ``rank<N>.engine``.
        dtype: of weights and activations that are not quantised.
        max_batch_size: most sequences at once; None for TensorRT-LLM's own.
        max_seq_len: most tokens of prompt and answer; None for the model's own context.
        max_input_len: most tokens of a prompt; None for as many as ``max_seq_len``.
        max_num_tokens: most tokens in a step; None for TensorRT-LLM's own.
        converter: a ``convert_checkpoint.py``; None for the LLM API.
        convert_args, build_args: further arguments of the converter and of ``trtllm-build``.
    """

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    max_batch_size: int | None = None
    max_seq_len: int | None = None
    max_input_len: int | None = None
    max_num_tokens: int | None = None
    converter: Path | None = None
    convert_args: tuple[str, ...] = ()
    build_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a build, and what it does in a word."""

    title: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        """As one would type it."""
        return shlex.join(self.command)


def plan(folder: Path, options: BuildOptions, scratch: Path) -> list[Step]:
    """The steps that compile ``folder`` into ``scratch / "engine"``.

    Args:
        folder: a Hugging Face checkpoint, or a TensorRT-LLM checkpoint.
        options: what for.
        scratch: an empty folder.

    Raises:
        CannotPack: options that do not go together, or no such folder.
    """
    config = read_json(folder / "config.json")
    limits = _limits(config, options)
    engine = scratch / "engine"
    if is_trtllm_checkpoint(folder):
        if options.converter is not None:
            raise CannotPack(f"{folder} is a TensorRT-LLM checkpoint already: leave --converter out.")
        _check_mapping(folder, config, options)
        return [_trtllm_build(folder, engine, options, limits)]
    if options.converter is None:
        if options.convert_args or options.build_args:
            raise CannotPack(
                "--convert-args and --build-args go with --converter FILE; without it, TensorRT-LLM's LLM API compiles."
            )
        return [_llm_api(folder, engine, options, limits)]
    if not options.converter.is_file():
        raise CannotPack(
            f"{options.converter} is not a file. Name the convert_checkpoint.py of the model's family in "
            "TensorRT-LLM's examples/models, or leave --converter out."
        )
    checkpoint = scratch / "checkpoint"
    convert = Step(
        "Converting the checkpoint",
        (
            sys.executable,
            str(options.converter),
            *("--model_dir", str(folder)),
            *("--output_dir", str(checkpoint)),
            *("--dtype", options.dtype),
            *("--tp_size", str(options.tensor_parallel_size)),
            *("--pp_size", str(options.pipeline_parallel_size)),
            *options.convert_args,
        ),
    )
    return [convert, _trtllm_build(checkpoint, engine, options, limits)]


def run(steps: list[Step]) -> None:
    """Run a plan; what the commands say goes to stderr.

    Raises:
        CannotPack: TensorRT-LLM is not installed, or a command failed.
    """
    for number, step in enumerate(steps, 1):
        if shutil.which(step.command[0]) is None:
            raise CannotPack(
                f"There is no {step.command[0]} here: it comes with TensorRT-LLM 1.0 to 1.2. Run this command in "
                "NVIDIA's image of TensorRT-LLM, on the kind of GPU that will serve the engine."
            )
        logger.info("Step %d of %d: %s: %s", number, len(steps), step.title, step)
        started = time.monotonic()
        with subprocess.Popen(step.command, stdout=sys.stderr) as process:
            try:
                while _still_runs(process):
                    logger.info("%s: %.0f s so far", step.title, time.monotonic() - started)
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            raise CannotPack(
                f"{step.title} failed with exit status {process.returncode}; what it said is above. To repeat it: "
                f"{step}"
            )
        logger.info("%s took %.0f s", step.title, time.monotonic() - started)


def _still_runs(process: subprocess.Popen[bytes]) -> bool:
    """Wait for the next sign of life."""
    try:
        process.wait(_SIGN_OF_LIFE_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _limits(config: dict[str, Any], options: BuildOptions) -> dict[str, int]:
    """As ``BuildConfig`` and ``trtllm-build`` call them; theirs for prompts is 1024 tokens, which surprises."""
    text_config = config.get("text_config") or config
    length = options.max_seq_len or text_config.get("max_position_embeddings")
    limits = {
        "max_batch_size": options.max_batch_size,
        "max_input_len": options.max_input_len or length,
        "max_seq_len": length,
        "max_num_tokens": options.max_num_tokens,
    }
    return {name: value for name, value in limits.items() if value is not None}


def _check_mapping(folder: Path, config: dict[str, Any], options: BuildOptions) -> None:
    mapping = config.get("mapping") or {}
    converted = mapping.get("tp_size", 1), mapping.get("pp_size", 1)
    if converted != (options.tensor_parallel_size, options.pipeline_parallel_size):
        raise CannotPack(
            f"{folder} was converted for tensor parallel {converted[0]} and pipeline parallel {converted[1]}: say --tp "
            f"{converted[0]} --pp {converted[1]}, or convert it again."
        )


def _trtllm_build(checkpoint: Path, engine: Path, options: BuildOptions, limits: dict[str, int]) -> Step:
    return Step(
        "Compiling the engine",
        (
            "trtllm-build",
            *("--checkpoint_dir", str(checkpoint)),
            *("--output_dir", str(engine)),
            *("--kv_cache_type", "paged"),
            *("--use_paged_context_fmha", "enable"),
            *("--workers", str(options.tensor_parallel_size * options.pipeline_parallel_size)),
            *(word for name, value in limits.items() for word in (f"--{name}", str(value))),
            *options.build_args,
        ),
    )


def _llm_api(folder: Path, engine: Path, options: BuildOptions, limits: dict[str, int]) -> Step:
    return Step(
        "Compiling the engine",
        (
            sys.executable,
            *("-m", "guidance_core.packing.llm_api_build"),
            *("--model", str(folder)),
            *("--output", str(engine)),
            *("--dtype", options.dtype),
            *("--tensor-parallel-size", str(options.tensor_parallel_size)),
            *("--pipeline-parallel-size", str(options.pipeline_parallel_size)),
            *(word for name, value in limits.items() for word in ("--limit", f"{name}={value}")),
        ),
    )
