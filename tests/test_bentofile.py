"""`bentoml build` makes a Bento that has the code and the model, and needs no network for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bento(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bento built from this tree, in a store of its own that has the default model."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    (home / "models" / model_path.parent.name).symlink_to(model_path.parent)
    subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--version", "test", str(ROOT)],
        env={
            **os.environ,
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "UV_OFFLINE": "1",
        },
        check=True,
        timeout=120,
    )
    return home / "bentos" / "guided-trtllm" / "test"


def test_a_bento_has_the_code_that_serves_and_nothing_else(bento: Path) -> None:
    assert {path.name for path in (bento / "src").iterdir()} == {
        "LICENSE",
        "README.md",
        "bentofile.yaml",
        "guidance_core",
        "kernels",
        "pack_model.py",
        "requirements.txt",
        "service.py",
    }
    modules = {path.relative_to(ROOT) for path in (ROOT / "guidance_core").rglob("*.py")}
    assert modules == {path.relative_to(bento / "src") for path in (bento / "src" / "guidance_core").rglob("*.py")}


def test_a_bento_names_the_model_and_the_requirements(bento: Path, model_path: Path) -> None:
    description = yaml.safe_load((bento / "bento.yaml").read_text())
    assert [model["tag"] for model in description["models"]] == [f"{model_path.parent.name}:{model_path.name}"]
    required = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "llguidance==" in required
    assert "torch==" in required
