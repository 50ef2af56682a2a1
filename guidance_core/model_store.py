"""Finds the model to serve in the Bento model store."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException, NotFound

from guidance_core.packing.package import CannotPack

logger = logging.getLogger(__name__)

DEFAULT_NAME = "smollm2-135m-instruct"
"""The model that packs itself when it is missing."""


class ModelNotInStore(Exception):
    """No model has this tag, or it cannot be read; the message names the command that packs one."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the store.

    Attributes:
        tag: ``name:version``, never ``latest``.
        path: its folder: a Hugging Face checkpoint.
        labels: short strings, among them ``executor``: what can run it.
        metadata: facts about it; see `guidance_core.packing.checkpoint.read`.
    """

    tag: str
    path: Path
    labels: dict[str, str]
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """The tag without its version."""
        return self.tag.partition(":")[0]


def find(tag: str) -> StoredModel:
    """The model of a tag (``name``, ``name:latest`` or ``name:version``) that is in the store.

    Raises:
        ModelNotInStore: it is not, or the tag is none.
    """
    try:
        model = bentoml.models.get(tag)
    except NotFound:
        raise ModelNotInStore(f"No model {tag!r} in the Bento model store. {_advice(tag)}") from None
    except (BentoMLException, ValueError) as error:
        raise ModelNotInStore(
            f"Model {tag!r} cannot be read from the Bento model store: {error}. {_advice(tag)}"
        ) from None
    return StoredModel(
        tag=str(model.tag), path=Path(model.path), labels=dict(model.info.labels), metadata=dict(model.info.metadata)
    )


def resolve(tag: str) -> StoredModel:
    """As `find`; but the default model is packed first when it is missing. That blocks for half a minute.

    Workers that start together pack it once: the others wait.

    Raises:
        ModelNotInStore: another model is missing, or packing failed; the message says why.
    """
    try:
        return find(tag)
    except ModelNotInStore:
        if tag not in (DEFAULT_NAME, f"{DEFAULT_NAME}:latest"):
            raise
    logger.warning("The default model is not in the Bento model store yet: packing it, which takes half a minute")
    # In a process of its own: packing needs torch, which would stay in the memory of a service that does not.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return find(process.submit(_pack_default).result())
        except (CannotPack, BrokenProcessPool) as error:
            raise ModelNotInStore(f"The default model could not be packed. {error} {_advice(tag)}") from error


def _pack_default() -> str:
    from guidance_core.packing import smollm2

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return smollm2.pack(if_missing=True)


def _advice(tag: str) -> str:
    packed = sorted({str(model.tag) for model in _listed()})
    name = tag.partition(":")[0]
    if name == DEFAULT_NAME:
        return "Pack it: python pack_model.py"
    others = f" The store has {', '.join(packed)}." if packed else ""
    return f"Pack it: python pack_model.py FOLDER --name {name}.{others}"


def _listed() -> list[bentoml.Model]:
    try:
        return bentoml.models.list()
    except (BentoMLException, OSError, ValueError):
        # A damaged neighbour must not hide what this message is about.
        return []
