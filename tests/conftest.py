"""What tests of every room share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when bentoml is imported: the tests report nothing to anybody.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The folder of the default model, which is packed first where the store does not have it."""
    from guidance_core.model_store import DEFAULT_NAME, resolve

    return resolve(DEFAULT_NAME).path
