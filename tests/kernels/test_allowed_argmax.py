from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import allowed_argmax as module
from kernels.allowed_argmax import allowed_argmax
from kernels.cpu import CpuKernels
from tests.kernels.samples import batches, same_bits

WAYS = pytest.mark.parametrize("way", ["compiled", "tensor operations"])


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, cpu_kernels: CpuKernels, way: str) -> None:
    monkeypatch.setattr(module, "cpu_kernels", lambda: cpu_kernels if way == "compiled" else None)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_compiled_kernel_finds_the_first_of_the_highest(cpu_kernels: CpuKernels, data: st.DataObject) -> None:
    batch = data.draw(batches(widest=9000, finite=True, layouts=("matrix",)))
    # Few different values, so that many are equal; none allowed where all is −inf.
    batch.buffer = (batch.buffer.float() * data.draw(st.sampled_from([0.1, 1, 100]))).round()
    if data.draw(st.booleans()):
        batch.buffer[torch.rand(batch.buffer.shape) < 0.99] = -torch.inf
    before = batch.buffer.clone()
    logits, _ = batch.arguments(batch.buffer)
    assert isinstance(logits, torch.Tensor)
    rows = data.draw(st.permutations(range(len(logits))))
    batch.starts = [batch.starts[row] for row in rows]
    values, tokens = allowed_argmax(logits, batch.bitmask, rows)
    for row, allowed, value, token in zip(rows, batch.allowed(), values.tolist(), tokens.tolist(), strict=True):
        masked = logits[row].where(torch.as_tensor(allowed), -torch.inf)
        assert value == masked.max().item()
        assert token == masked.tolist().index(value)
    assert same_bits(batch.buffer, before)


@WAYS
@pytest.mark.usefixtures("choose")
def test_rows_out_of_order_and_what_masks_do_not_reach() -> None:
    logits = torch.arange(120.0).reshape(3, 40)
    bitmask = torch.tensor([[1 << 3 | 1], [-1], [0]], dtype=torch.int32)
    values, tokens = allowed_argmax(logits, bitmask)
    assert tokens.tolist() == [3, 31, 0]
    assert values.tolist() == [3, 71, -math.inf]
    values, tokens = allowed_argmax(logits, bitmask, [2])
    assert (values.tolist(), tokens.tolist()) == ([83], [3])
    assert [answer.tolist() for answer in allowed_argmax(logits, bitmask, [])] == [[], []]


@WAYS
@pytest.mark.usefixtures("choose")
def test_nan_counts_as_highest_only_where_it_is_allowed() -> None:
    logits = torch.zeros(3, 3000)
    logits[:2, 1500] = torch.nan
    logits[:2, 2000] = torch.inf
    logits[1:, 2999] = torch.nan
    bitmask = torch.full((3, 94), -1, dtype=torch.int32)
    bitmask[1, 1500 // 32] = bitmask[1, 93] = 0
    values, tokens = allowed_argmax(logits, bitmask)
    assert values.isnan().tolist() == [True, False, True]
    assert tokens.tolist() == [1500, 2000, 2999]


def test_what_does_not_fit_is_refused() -> None:
    mask = torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(TypeError, match="float16"):
        allowed_argmax(torch.zeros(1, 32, dtype=torch.float16), mask)
    with pytest.raises(ValueError, match="row -1"):
        allowed_argmax(torch.zeros(1, 32), mask, [-1])
    with pytest.raises(ValueError, match="no vocabulary"):
        allowed_argmax(torch.zeros(1, 0), mask)
