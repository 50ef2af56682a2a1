from __future__ import annotations

import pytest

from benchmarks.agreement import compare


def test_agreement_counts_equal_answers_and_equal_beginnings() -> None:
    agreement = compare([[1, 2, 3, 4], [1, 2, 9, 4], [7]], [[1, 2, 3, 4], [1, 2, 3, 4], [8]])
    assert agreement.prompts == 3
    assert agreement.identical_answers == pytest.approx(1 / 3)
    assert agreement.equal_prefix == pytest.approx((1 + 0.5 + 0) / 3)


def test_an_answer_that_stops_early_agrees_only_in_part() -> None:
    agreement = compare([[1, 2]], [[1, 2, 3, 4]])
    assert agreement.identical_answers == 0
    assert agreement.equal_prefix == 0.5


def test_answers_and_references_must_belong_together() -> None:
    with pytest.raises(ValueError, match="longer"):
        compare([[1]], [[1], [2]])
