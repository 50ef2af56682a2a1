"""`bentoml build` makes a Bento that has the code and the model, needs no network for it, and serves by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from _bentoml_sdk.service.config import validate
from bentoml._internal.cloud.schemas.modelschemas import DeploymentServiceConfig
from bentoml._internal.utils.cattr import bentoml_cattr

from guidance_core.config import load_settings
from tests.homes import make_home
from tests.ports import free_port

ROOT = Path(__file__).parent.parent

BROUGHT_BY_THE_IMAGE = {
    "torch",
    "transformers",
    "llguidance",
    "pydantic",
    # what these or TensorRT-LLM itself require
    "jinja2",
    "pillow",
    "regex",
    "filelock",
    "safetensors",
}
"""Requirements that TensorRT-LLM's image has (requirements.txt of TensorRT-LLM 1.2 and of what it names)."""

PACKS_ONLY = {"gguf"}
"""Needed where the default model is made, which comes along inside of the Bento."""


@pytest.fixture(scope="module")
def home(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML home of its own that has the default model."""
    return make_home(tmp_path_factory.mktemp("bento") / "home", model_path)


def build(home: Path, bentofile: str, version: str) -> Path:
    """Build a Bento of this tree without a network."""
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "bentoml", "build", "-f", str(ROOT / bentofile), "--version", version, str(ROOT)]
    subprocess.run(command, env=environment, check=True, timeout=120)
    return home / "bentos" / "guided-trtllm" / version


@pytest.fixture(scope="module")
def bento(home: Path) -> Path:
    """A Bento for the embedded executor."""
    return build(home, "bentofile.yaml", "test")


@pytest.fixture(scope="module")
def trtllm_bento(home: Path) -> Path:
    """A Bento for NVIDIA's image."""
    return build(home, "bentofile.trtllm.yaml", "trtllm")


def files_of(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


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
    for package in ("guidance_core", "kernels"):
        assert files_of(bento / "src" / package) == files_of(ROOT / package)
    for source in ("mask_logits.cu", "mask_logits_cpu.cpp"):
        assert (bento / "src" / "kernels" / source).exists()


def test_a_bento_names_the_model_and_the_requirements(bento: Path, model_path: Path) -> None:
    description = yaml.safe_load((bento / "bento.yaml").read_text())
    assert [model["tag"] for model in description["models"]] == [f"{model_path.parent.name}:{model_path.name}"]
    required = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "llguidance==" in required
    assert "torch==" in required


@pytest.fixture
def served(bento: Path, model_path: Path, tmp_path: Path) -> Iterator[str]:
    """The Bento's own folder, moved away from the tree it was built of, with a store that has its model; its URL."""
    shutil.copytree(bento, tmp_path / "bento")
    home = make_home(tmp_path / "home", model_path)
    port = free_port()
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path / "bento",
        env=environment,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def test_a_bento_serves_from_its_own_folder(served: str) -> None:
    deadline = time.monotonic() + 90
    while not _is_ready(served):
        assert time.monotonic() < deadline, "not ready after 90 s"
        time.sleep(0.2)
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Pick a colour."}],
        "response_format": {"type": "regex", "regex": "(red|green|blue)"},
    }
    request = urllib.request.Request(
        f"{served}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert answer["choices"][0]["message"]["content"] in ("red", "green", "blue")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_the_bento_for_nvidias_image_starts_from_it_and_ends_with_its_packages_in_sight(trtllm_bento: Path) -> None:
    dockerfile = (trtllm_bento / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM tensorrt-llm/release:1.2.1 AS" in dockerfile
    assert "uv venv --python 3.12 " in dockerfile
    (script,) = re.findall(r"&& (\./env/docker/script__\w+)", dockerfile)
    assert (trtllm_bento / script).read_text() == (ROOT / "deploy" / "inherit_image.sh").read_text()
    assert dockerfile.index("uv --directory") < dockerfile.index(script), "it mends what was installed before"
    assert "GUIDED_TRTLLM_EXECUTOR=trtllm" in dockerfile
    assert files_of(trtllm_bento / "src" / "kernels") == files_of(ROOT / "kernels")


def test_nothing_that_the_image_brings_is_installed_into_it(trtllm_bento: Path) -> None:
    required = (trtllm_bento / "env" / "python" / "requirements.txt").read_text()
    names = set(requirements(required))
    assert not names & (BROUGHT_BY_THE_IMAGE | {"numpy", "starlette", "fastapi", "cuda-python"})


def requirements(text: str) -> dict[str, set[str]]:
    """Name → requirements, as they are written."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "-")):
            found.setdefault(re.split(r"[^\w.-]", line)[0].lower(), set()).add(line.strip())
    return found


def test_both_lists_of_requirements_agree() -> None:
    everywhere = requirements((ROOT / "requirements.txt").read_text())
    in_the_image = requirements((ROOT / "requirements-trtllm.txt").read_text())
    assert {name: everywhere[name] for name in in_the_image} == in_the_image
    assert set(everywhere) == set(in_the_image) | BROUGHT_BY_THE_IMAGE | PACKS_ONLY


def write_wheel(folder: Path, name: str, version: str, requires: str | None = None) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the script finds in the image: an environment that hides and shadows the packages of its interpreter."""
    base = Path(os.path.realpath(sys.executable))
    if subprocess.run([base, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{base}, which stands for the image's Python, has no pip")
    subprocess.run([base, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "shadow.py").write_text("")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version in ("1.0", "999.0"):
        write_wheel(wheels, "pip", version)
    write_wheel(wheels, "leaf", "1.0", "pip>=1")
    write_wheel(wheels, "greedy", "1.0", "pip>=999")
    return {
        **{name: value for name, value in os.environ.items() if name != "PIP_QUIET"},  # what pip says is looked at
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }


def inherit(environment: dict[str, str], folder: Path, required: str) -> subprocess.CompletedProcess[str]:
    (folder / "requirements.txt").write_text(required)
    command = [str(ROOT / "deploy" / "inherit_image.sh"), str(folder / "requirements.txt")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_environment_sees_the_images_packages_below_its_own(environment: dict[str, str], tmp_path: Path) -> None:
    finished = inherit(environment, tmp_path, "# what serving needs\nleaf>=1\n")
    assert finished.returncode == 0, finished.stderr
    look = "import importlib.util as u, leaf, pip; print(pip.__file__, bool(u.find_spec('shadow')), leaf.version)"
    python = tmp_path / "venv" / "bin" / "python"
    seen = subprocess.run([python, "-c", look], capture_output=True, text=True, check=True).stdout.split()
    assert not seen[0].startswith(str(tmp_path))
    assert seen[1:] == ["False", "1.0"]


def test_a_requirement_that_would_replace_a_package_of_the_image_is_an_error(
    environment: dict[str, str], tmp_path: Path
) -> None:
    finished = inherit(environment, tmp_path, "greedy>=1\n")
    assert finished.returncode != 0
    assert "pip>=999" in finished.stdout + finished.stderr


def test_deployment_files_are_what_bentocloud_and_kubernetes_read() -> None:
    cloud = yaml.safe_load((ROOT / "deploy" / "bentocloud.yaml").read_text())
    service = cloud["services"]["GuidedLLM"]
    config = bentoml_cattr.structure(service, DeploymentServiceConfig)
    assert config.scaling is not None
    assert config.scaling.max_replicas == 8
    assert set(service) <= {field.name for field in attrs.fields(DeploymentServiceConfig)}
    validate(service["config_overrides"])
    deployment, _ = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("file", ["bentocloud.yaml", "kubernetes.yaml", "slurm.sh", "../bentofile.trtllm.yaml"])
def test_deployment_files_set_settings_that_there_are(file: str) -> None:
    text = (ROOT / "deploy" / file).read_text()
    variables = dict(re.findall(r'(GUIDED_TRTLLM_\w+)(?:=|,? *\n? *value: )"?([\w.:-]+)', text))
    assert variables["GUIDED_TRTLLM_EXECUTOR"] == "trtllm"
    settings: Any = load_settings(variables)
    assert settings.executor == "trtllm"
