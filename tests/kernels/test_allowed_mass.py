from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import allowed_mass as module
from kernels.allowed_mass import allowed_masses
from kernels.cpu import CpuKernels
from tests.kernels.samples import Batch, batches, same_bits

WAYS = pytest.mark.parametrize("way", ["compiled", "tensor operations"])


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, cpu_kernels: CpuKernels, way: str) -> None:
    monkeypatch.setattr(module, "cpu_kernels", lambda: cpu_kernels if way == "compiled" else None)


def expected(batch: Batch) -> list[float]:
    """The definition, in float64."""
    masses = []
    for start, allowed in zip(batch.starts, batch.allowed(), strict=True):
        logits = batch.buffer[start : start + batch.vocabulary].double().numpy()
        if np.isneginf(logits).all():
            masses.append(np.nan)
        else:
            weights = np.exp(logits - logits.max())
            masses.append(weights[allowed].sum() / weights.sum())
    return masses


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_compiled_kernel_measures_what_the_definition_says(cpu_kernels: CpuKernels, data: st.DataObject) -> None:
    batch = data.draw(batches(widest=9000, finite=True, layouts=("matrix",)))
    batch.buffer = batch.buffer.float() * data.draw(st.sampled_from([0.01, 1, 30]))
    before = batch.buffer.clone()
    logits, _ = batch.arguments(batch.buffer)
    assert isinstance(logits, torch.Tensor)
    rows = data.draw(st.permutations(range(len(logits))))
    batch.starts = [batch.starts[row] for row in rows]
    assert allowed_masses(logits, batch.bitmask, rows).tolist() == pytest.approx(
        expected(batch), rel=1e-5, abs=1e-9, nan_ok=True
    )
    assert same_bits(batch.buffer, before)


@WAYS
@pytest.mark.usefixtures("choose")
def test_masses_of_rows_out_of_order_and_of_what_masks_do_not_reach() -> None:
    logits = torch.tensor([[0.0] * 40, [1.0] + [0.0] * 39, [0.0] * 40])
    bitmask = torch.tensor([[1], [-1], [0]], dtype=torch.int32)
    assert allowed_masses(logits, bitmask).tolist() == pytest.approx([1 / 40, (31 + np.e) / (39 + np.e), 0])
    assert allowed_masses(logits, bitmask, [1]).tolist() == pytest.approx([np.e / (39 + np.e)])
    assert allowed_masses(logits, bitmask, []).tolist() == []


@WAYS
@pytest.mark.usefixtures("choose")
def test_probabilities_that_are_none_have_no_mass() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.zeros(5, 3000)
    logits[0, 1500] = nan
    logits[1, 7] = inf
    logits[2] = -inf
    logits[3, :2900] = -inf
    logits[4, ::2] = -inf
    logits[4, 2999] = nan
    bitmask = torch.full((5, 94), -1, dtype=torch.int32)
    bitmask[3, 92:] = 0
    masses = allowed_masses(logits, bitmask)
    assert masses.isnan().tolist() == [True, True, True, False, True]
    assert masses[3].item() == pytest.approx(44 / 100)


def test_what_does_not_fit_is_refused() -> None:
    mask = torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(TypeError, match="float16"):
        allowed_masses(torch.zeros(1, 32, dtype=torch.float16), mask)
    with pytest.raises(ValueError, match="row -1"):
        allowed_masses(torch.zeros(1, 32), mask, [-1])
    with pytest.raises(ValueError, match="row 1"):
        allowed_masses(torch.zeros(1, 32), mask, [1])
