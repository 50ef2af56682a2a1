from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.mask_logits import mask_logits, mask_with_tensor_operations


def reference(logits: torch.Tensor, bitmask: torch.Tensor, rows: list[int]) -> torch.Tensor:
    expected = logits.clone()
    for source, target in enumerate(rows):
        for token in range(logits.shape[1]):
            word, bit = divmod(token, 32)
            allowed = word < bitmask.shape[1] and int(bitmask[source, word]) >> bit & 1
            if not allowed:
                expected[target, token] = -torch.inf
    return expected


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    integer = torch.int32 if left.dtype == torch.float32 else torch.int16
    return torch.equal(left.view(integer), right.view(integer))


@settings(max_examples=150, deadline=None)
@given(
    vocabulary=st.integers(1, 130),
    words=st.integers(1, 5),
    total=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_it_does_what_a_loop_over_bits_does(
    vocabulary: int, words: int, total: int, dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(range(total)))[: data.draw(st.integers(0, total))]
    random = np.random.default_rng(seed)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan]
    values = np.where(
        random.random((total, vocabulary)) < 0.2,
        random.choice(special, (total, vocabulary)),
        random.normal(size=(total, vocabulary)) * 100,
    )
    logits = torch.from_numpy(values).to(dtype)
    bitmask = torch.from_numpy(random.integers(-(2**31), 2**31, (total, words)).astype(np.int32))
    expected = reference(logits, bitmask, rows)
    elsewhere = logits.clone()
    mask_logits(logits, bitmask, rows=rows)
    assert same_bits(logits, expected)
    mask_with_tensor_operations(elsewhere, bitmask, rows)
    assert same_bits(elsewhere, expected)


def test_without_rows_every_row_has_its_mask() -> None:
    logits = torch.zeros(2, 40)
    mask_logits(logits, torch.tensor([[-1, -1], [0, 1]], dtype=torch.int32))
    assert logits[0].isfinite().all()
    assert logits[1].isfinite().nonzero().flatten().tolist() == [32]


def test_rows_of_a_larger_matrix_can_be_masked_in_place() -> None:
    logits = torch.zeros(3, 200)
    mask_logits(logits[1:, :64], torch.zeros(2, 2, dtype=torch.int32))
    assert logits[0].isfinite().all()
    assert logits[1:, :64].isneginf().all()
    assert logits[1:, 64:].isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        mask_logits(torch.zeros(1, 32), torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(TypeError, match="float64"):
        mask_logits(torch.zeros(1, 32, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="2 masks"):
        mask_logits(torch.zeros(1, 32), torch.zeros(2, 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="contiguous"):
        mask_logits(torch.zeros(32, 2).T, torch.zeros(2, 1, dtype=torch.int32))
