"""Publishes a package in the Bento model store: all of it at once, or nothing.

`bentoml.models.create` copies a model file by file into the folder under which the store already lists it, so a process
that is killed leaves half a model that resolves. Here the model is completed in a folder beside the store and renamed
into it. Its version is a hash of its content: the same content packed again is the same tag.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.models import ModelContext
from filelock import FileLock

from guidance_core.packing.package import CannotPack, Package

logger = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20


def models_dir() -> Path:
    """The folder of BentoML's model store (``$BENTOML_HOME/models``)."""
    return Path(BentoMLContainer.model_store_dir.get())


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """An empty folder on the store's file system for packing ``name``; whoever is inside is the only one, others wait.

    It lies beside the store, or, where the store is a mount of its own, hidden inside it: publishing is a rename, which
    needs one file system. Inside is the second choice, since ``bentoml models list`` takes every folder for a model.
    What a killed process left there is removed.
    """
    models = models_dir()
    models.mkdir(parents=True, exist_ok=True)
    beside = os.stat(models.parent).st_dev == os.stat(models).st_dev
    root = (models.parent if beside else models) / ".packing"
    root.mkdir(exist_ok=True)
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def check_name(name: str) -> str:
    """``name``, if BentoML takes it as a model's name.

    Raises:
        CannotPack: it does not; the message proposes a name.
    """
    try:
        tag = bentoml.Tag.from_str(name)
    except ValueError as error:
        kept = "".join(character if character.isalnum() or character in "-_." else "-" for character in name.lower())
        raise CannotPack(f"{error}. Try --name {kept[:63].strip('-_.') or 'my-model'}") from None
    if tag.version is not None:
        raise CannotPack(f"{name!r}: the version is a hash of the content and cannot be chosen. Try --name {tag.name}")
    return tag.name


def publish(package: Package, folder: Path, *, copy: bool = False) -> str:
    """Put a package into the store and make it the latest of its name.

    Files are hard-linked where store and source share a file system, else copied; symbolic links are followed. Packing
    the same content again finds the version that is there.

    Args:
        package: what to publish.
        folder: the `workspace` of its name.
        copy: copy always, so that later writes to the source cannot reach the store.

    Returns:
        The tag, ``name:version``.

    Raises:
        CannotPack: no room, or a file that cannot be read, or that changes meanwhile.
    """
    try:
        before = _states(package)
        tag = f"{package.name}:{_version(package)}"
    except OSError as error:
        raise CannotPack(f"{error.filename} cannot be read: {error.strerror}.") from error
    target = models_dir() / tag.replace(":", "/")
    try:
        if target.is_dir():
            logger.info("%s is in the store already", tag)
        else:
            model = folder / "model"
            _fill(model, package, tag, copy)
            _check_unchanged(package, before)
            target.parent.mkdir(exist_ok=True)
            model.rename(target)
        _write_latest(target)
    except OSError as error:
        raise CannotPack(f"Writing to {models_dir()} failed: {error}. BENTOML_HOME names another place.") from error
    return tag


def _version(package: Package) -> str:
    """16 hexadecimal digits that name the content: files, labels and metadata."""
    logger.info(
        "Reading %.0f MB to name the version by its content",
        package.size_bytes / 1e6,
    )
    digest = hashlib.sha256(json.dumps([package.labels, package.metadata], sort_keys=True).encode())
    for name, source in sorted(package.files.items()):
        digest.update(f"\0{name}\0".encode())
        with source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    for name, text in sorted(package.texts.items()):
        digest.update(f"\0{name}\0{text}".encode())
    return digest.hexdigest()[:16]


def _states(package: Package) -> dict[str, tuple[int, int, int]]:
    """What changes with each file: which one it is, its length, when it was written."""
    states = {name: source.stat() for name, source in package.files.items()}
    return {name: (state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states.items()}


def _check_unchanged(package: Package, before: dict[str, tuple[int, int, int]]) -> None:
    """The version is a promise about the content, which is read twice: once for its hash, once for the store."""
    changed = [str(package.files[name]) for name, state in _states(package).items() if state != before[name]]
    if changed:
        raise CannotPack(f"{changed[0]} was written to while it was packed. Pack again once nothing writes there.")


def _fill(folder: Path, package: Package, tag: str, copy: bool) -> None:
    """Make ``folder`` what the store expects of a model: its files and a model.yaml."""
    linked = sum(_place(source.resolve(), folder / path, copy) for path, source in package.files.items())
    logger.info("%d files: %d hard-linked, %d copied", len(package.files), linked, len(package.files) - linked)
    for path, text in package.texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    # `Model.create` only describes the model here; the temporary folder that it makes stays empty and goes with it.
    model = bentoml.Model.create(
        tag,
        module="",
        api_version="v1",
        signatures={},
        labels=dict(package.labels),
        # BentoML refuses None as a value.
        metadata={name: value for name, value in package.metadata.items() if value is not None},
        context=ModelContext(framework_name="", framework_versions={}),
    )
    with (folder / "model.yaml").open("w", encoding="utf-8") as file:
        model.info.dump(file)


def _place(source: Path, target: Path, copy: bool) -> bool:
    """Link or copy one file; whether it was linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            os.link(source, target)
            return True
        except OSError:
            # Another file system, or one without hard links: a copy is as good.
            pass
    logger.info("Copying %s (%.0f MB)", target.name, source.stat().st_size / 1e6)
    shutil.copyfile(source, target)
    return False


def _write_latest(target: Path) -> None:
    """Make the version in ``target`` the one that ``name:latest`` means, without a moment at which none is."""
    draft = target.parent / ".latest"
    draft.write_text(target.name)
    draft.replace(target.parent / "latest")
