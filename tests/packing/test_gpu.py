from __future__ import annotations

from pathlib import Path

import pytest

from guidance_core.packing.gpu import Gpu, gpu_named, visible_gpus


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("H100-SXM", "9.0"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA A100-SXM4-40GB", "8.0"),
        ("NVIDIA L40S", "8.9"),
        ("NVIDIA-B200", "10.0"),
        ("sm_90", "9.0"),
        ("10.0", "10.0"),
        ("sm120", "12.0"),
        ("NVIDIA RTX A1000", None),
        ("something else", None),
    ],
)
def test_a_name_stands_for_a_compute_capability(name: str, capability: str | None) -> None:
    assert gpu_named(name).compute_capability == capability


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]),
        ("1", ["NVIDIA L4"]),
        ("GPU-aaaa", ["NVIDIA H100 80GB HBM3"]),
        ("", []),
    ],
)
def test_the_gpus_of_this_machine_are_those_that_cuda_sees(
    path_with: Path, visible: str | None, names: list[str]
) -> None:
    smi = path_with / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        'test "$*" = "--query-gpu=index,uuid,name,compute_cap --format=csv,noheader" || exit 2\n'
        'echo "0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 9.0"\n'
        'echo "1, GPU-bbbb-2, NVIDIA L4, 8.9"\n'
    )
    smi.chmod(0o755)
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [gpu.name for gpu in visible_gpus(environment)] == names


def test_without_a_driver_there_are_no_gpus(path_with: Path) -> None:
    assert visible_gpus({}) == []
    (path_with / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (path_with / "nvidia-smi").chmod(0o755)
    assert visible_gpus({}) == []


def test_a_gpu_is_written_with_what_is_known_of_it() -> None:
    assert str(Gpu("NVIDIA L4", "8.9")) == "NVIDIA L4 (compute capability 8.9)"
    assert str(Gpu("", "8.9")) == "compute capability 8.9"
    assert str(Gpu("NVIDIA X", None)) == "NVIDIA X"
