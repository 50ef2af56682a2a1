"""A Triton model repository: which models it has, and how it is packed so that Triton can be started on it.

The stored model has the tokenizer and configuration of the checkpoint at its top, where the Triton executor looks for
them; the repository in `REPOSITORY`; and the engine in `ENGINE`, where it was not inside of the repository. Paths in
the models' ``config.pbtxt`` are made relative to the stored model's folder, as BentoML's example of TensorRT-LLM does:
Triton is started there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from guidance_core.packing.json_files import read_json
from guidance_core.packing.package import CannotPack, Package
from guidance_core.packing.tokenizer import chat_template_sha256, tokenizer_files

FORMAT = "triton-repository"
REPOSITORY = "triton_model_repository"
ENGINE = "engine"

_PLACES = (
    ".",
    REPOSITORY,
    "model_repository",
    "all_models/inflight_batcher_llm",
    "tensorrtllm_backend/all_models/inflight_batcher_llm",
)
"""Where a folder may have a repository; the last two are those of tensorrtllm_backend and of BentoML's example."""

_PARAMETER = re.compile(r'key:\s*"(?P<key>\w+)"\s*,?\s*value:?\s*\{\s*string_value:\s*"(?P<value>[^"]*)"')
_UNFILLED = re.compile(r"\$\{(\w+)\}")
_ENGINE_KEYS = ("gpt_model_path", "engine_dir")
_TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")


def repository_folder(folder: Path) -> Path | None:
    """Where the repository in ``folder`` is, or None."""
    return next((folder / place for place in _PLACES if any((folder / place).glob("*/config.pbtxt"))), None)


def read(folder: Path, *, name: str | None = None, tokenizer: Path | None = None) -> Package:
    """Check a repository and describe it.

    Args:
        folder: that is a model repository, or has one in one of the usual places.
        name: name in the store; by default the folder's, in lower case.
        tokenizer: folder of the checkpoint that the repository's engine was made of; weights are not needed. By default
            what ``tokenizer_dir`` names in the repository.

    Raises:
        CannotPack: it is none, a template is not filled in, or a path leads nowhere.
    """
    repository = repository_folder(folder)
    if repository is None:
        raise CannotPack(f"{folder} has no Triton model repository: no */config.pbtxt is there.")
    configs = {path.parent.name: path.read_text(encoding="utf-8") for path in sorted(repository.glob("*/config.pbtxt"))}
    for model, config in configs.items():
        _check_filled_in(repository / model / "config.pbtxt", config)
    served = next((model for model in ("tensorrt_llm", *_TEXT_MODELS) if model in configs), None)
    if served is None:
        raise CannotPack(
            f"{repository} has {', '.join(configs)}, but none of tensorrt_llm, ensemble and tensorrt_llm_bls, which a "
            "repository of TensorRT-LLM has: name another folder."
        )
    if served == "tensorrt_llm" and not re.search(r"decoupled:\s*true", configs[served], re.IGNORECASE):
        raise CannotPack(
            f"{repository}/{served}/config.pbtxt does not let the model stream: fill in decoupled_mode:True "
            "(tools/fill_template.py), or write `model_transaction_policy { decoupled: true }`."
        )

    search = (folder, *repository.resolve().parents)
    engine = _find(configs, _ENGINE_KEYS, search)
    files = _all_files(repository, REPOSITORY)
    engine_path = ENGINE
    if engine is not None and engine.resolve().is_relative_to(repository.resolve()):
        engine_path = f"{REPOSITORY}/{engine.resolve().relative_to(repository.resolve()).as_posix()}"
    elif engine is not None:
        files.update(_all_files(engine, ENGINE))
    tokenizer = tokenizer or _find(configs, ("tokenizer_dir",), search)
    if tokenizer is None:
        raise CannotPack(
            f"{folder} names no tokenizer: name the folder of the checkpoint that its engine was made of with "
            "--tokenizer FOLDER."
        )
    texts = {f"{REPOSITORY}/{model}/config.pbtxt": _relative(config, engine_path) for model, config in configs.items()}
    checkpoint = read_json(tokenizer / "config.json")
    architecture = (checkpoint.get("architectures") or [checkpoint.get("model_type", "unknown")])[0]
    package = Package(
        name=name or folder.resolve().name.lower(),
        files={
            **{path: file for path, file in files.items() if path not in texts},
            **tokenizer_files(tokenizer),
            **{file.name: file for file in sorted(tokenizer.glob("*config.json"))},
        },
        texts=texts,
        labels={"executor": "triton", "architecture": architecture},
    )
    package.metadata.update(
        {
            "source": str(repository.resolve()),
            "format": FORMAT,
            "architecture": architecture,
            "models": sorted(configs),
            "triton_model": served,
            "vocab_size": (checkpoint.get("text_config") or checkpoint).get("vocab_size"),
            **_engine_facts(engine),
            "size_bytes": package.size_bytes,
            "chat_template_sha256": chat_template_sha256(tokenizer),
        }
    )
    return package


def _engine_facts(engine: Path | None) -> dict[str, Any]:
    if engine is None or not (engine / "config.json").exists():
        return {}
    config = read_json(engine / "config.json")
    build = config.get("build_config") or {}
    return {
        "tensorrt_llm": config.get("version"),
        "context_length": build.get("max_seq_len"),
        "max_batch_size": build.get("max_batch_size"),
    }


def _check_filled_in(file: Path, config: str) -> None:
    """Refuse what `fill_template.py` has not been told; TensorRT-LLM's backend has defaults for further parameters."""
    parameters = {match["key"]: match["value"] for match in _PARAMETER.finditer(config)}
    needed = [value for key, value in parameters.items() if key in ("tokenizer_dir", *_ENGINE_KEYS[:1])]
    structure = _PARAMETER.sub("", config)
    unfilled = _UNFILLED.findall(" ".join([structure, *needed]))
    if unfilled:
        raise CannotPack(
            f"{file} is a template that is not filled in ({', '.join(dict.fromkeys(unfilled))}): fill it in with "
            "tensorrtllm_backend's tools/fill_template.py and pack again."
        )


def _find(configs: dict[str, str], keys: tuple[str, ...], search: tuple[Path, ...]) -> Path | None:
    """The folder that a parameter names, in the first of the models; relative paths start at a folder of ``search``."""
    found: list[Path] = []
    for model, config in configs.items():
        for match in _PARAMETER.finditer(config):
            if match["key"] not in keys or not match["value"] or _UNFILLED.search(match["value"]):
                continue
            there = [base / match["value"] for base in search if (base / match["value"]).is_dir()]
            if not there:
                raise CannotPack(
                    f"{model}/config.pbtxt says {match['key']}: {match['value']}, and there is no such folder here. "
                    "Correct the path, and pack again."
                )
            found.append(there[0])
    return found[0] if found else None


def _relative(config: str, engine_path: str) -> str:
    """``config`` with paths that start at the stored model's folder."""

    def replace(match: re.Match[str]) -> str:
        paths = {"tokenizer_dir": ".", **dict.fromkeys(_ENGINE_KEYS, engine_path)}
        if match["key"] not in paths or not match["value"] or _UNFILLED.search(match["value"]):
            return match[0]
        start = match.start("value") - match.start()
        return match[0][:start] + paths[match["key"]] + match[0][start + len(match["value"]) :]

    return _PARAMETER.sub(replace, config)


def _all_files(folder: Path, under: str) -> dict[str, Path]:
    return {
        f"{under}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
