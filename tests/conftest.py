"""What tests of every room share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when bentoml is imported: the tests report nothing to anybody.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The folder of the default model, which is packed first where the store does not have it."""
    from guidance_core.model_store import DEFAULT_NAME, resolve

    return resolve(DEFAULT_NAME).path


@pytest.fixture
def empty_store(tmp_path: Path) -> Iterator[Path]:
    """BentoML's model store, moved to an empty folder; the folder."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    models_dir = tmp_path / "home" / "models"
    models_dir.mkdir(parents=True)
    BentoMLContainer.model_store_dir.set(str(models_dir))
    BentoMLContainer.model_store.set(ModelStore(models_dir))
    yield models_dir
    BentoMLContainer.model_store_dir.reset()
    BentoMLContainer.model_store.reset()
