"""What a folder holds, and the package that is made of it."""

from __future__ import annotations

from pathlib import Path

from guidance_core.packing import checkpoint, engine, triton_repository
from guidance_core.packing.gpu import Gpu
from guidance_core.packing.package import CannotPack, Package


def read(folder: Path, *, name: str | None = None, tokenizer: Path | None = None, gpu: Gpu | None = None) -> Package:
    """Describe an engine, a Triton repository or a checkpoint: whichever the folder holds.

    Args:
        folder: on this machine.
        name: name in the store; by default the folder's, in lower case.
        tokenizer: folder to take the tokenizer of, where it is not the same one.
        gpu: that an engine was built on, where the engine does not say.

    Raises:
        CannotPack: it holds none of these, or something is missing or damaged; the message says what.
    """
    if engine.engine_folder(folder) is not None:
        return engine.read(folder, name=name, tokenizer=tokenizer, gpu=gpu)
    if gpu is not None:
        raise CannotPack(f"--gpu goes with a compiled engine, and {folder} has none: leave it out.")
    if triton_repository.repository_folder(folder) is not None:
        return triton_repository.read(folder, name=name, tokenizer=tokenizer)
    if is_trtllm_checkpoint(folder):
        raise CannotPack(
            f"{folder} is a TensorRT-LLM checkpoint, which engines are compiled of: add --build, and name the folder "
            "of the Hugging Face checkpoint that it was made of with --tokenizer FOLDER."
        )
    return checkpoint.read(folder, name=name, tokenizer=tokenizer)


def is_trtllm_checkpoint(folder: Path) -> bool:
    """Whether ``convert_checkpoint.py`` or ModelOpt wrote it for ``trtllm-build``."""
    return (folder / "rank0.safetensors").exists() and (folder / "config.json").exists()
