"""From logits to tokens, against distributions computed the plain way."""

import math
from collections import Counter
from collections.abc import Sequence as TokenIds
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TypicalLogitsWarper

from guidance_core.executors.torch.sampler import Sample, sample
from guidance_core.executors.torch.sequence import Sequence
from guidance_core.generation import Grammar
from tests.executors.torch.fakes import choice

DRAWS = 4_000
GRAMMAR = Grammar("", "regex", "", "")


def plain(
    logits: torch.Tensor,
    *,
    temperature: float = 1,
    top_k: int = 0,
    top_p: float = 1,
    min_p: float = 0,
    typical_p: float = 1,
) -> np.ndarray:
    """The distribution of the next token, by sorting everything."""
    p = (logits.double() / temperature).softmax(-1)
    order = p.argsort(descending=True, stable=True)
    keep = p[order].clone()
    if top_k:
        keep[top_k:] = 0
    keep /= keep.sum()
    before = keep.cumsum(-1) - keep
    keep[before >= top_p] = 0
    keep[keep < min_p * keep[0]] = 0
    result = torch.zeros_like(p)
    result[order] = keep / keep.sum()
    if typical_p < 1:
        result = TypicalLogitsWarper(typical_p)(torch.empty(0), result.log()[None])[0].softmax(-1)
    return result.numpy()


def draw(logits: torch.Tensor, **sampling: object) -> np.ndarray:
    """Shares of the tokens in many draws."""
    choices = [choice(seed=seed, **{"temperature": 1.0, **sampling}) for seed in range(DRAWS)]
    samples = sample(logits.repeat(DRAWS, 1), choices)
    assert all(s.error is None for s in samples)
    return np.bincount([s.token_id for s in samples], minlength=len(logits)) / DRAWS


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_k": 1},
        {"top_k": 1000},
        {"top_p": 0.8},
        {"top_p": 1e-6},
        {"min_p": 0.1},
        {"top_k": 20, "top_p": 0.7},
        {"top_p": 0.9, "min_p": 0.05, "temperature": 1.3},
        {"typical_p": 0.3},
        {"typical_p": 0.9, "temperature": 0.6},
        {"typical_p": 1e-6},
        {"typical_p": 0.5, "top_k": 12, "top_p": 0.9, "min_p": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("vocabulary", [48, 61])
def test_draws_follow_the_distribution(sampling: dict[str, float], vocabulary: int) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    expected = plain(logits, **sampling)  # type: ignore[arg-type]
    shares = draw(logits, **sampling)
    assert np.all(shares[expected == 0] == 0)
    assert np.abs(shares - expected).max() < 4.5 * math.sqrt(0.25 / DRAWS)


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_p": 0.6},
        {"top_k": 3000},
        {"top_k": 700, "top_p": 0.9},
        {"typical_p": 0.5},
        {"typical_p": 0.4, "top_p": 0.8},
    ],
    ids=str,
)
def test_a_nucleus_wider_than_the_first_candidates_is_found_exactly(sampling: dict[str, float]) -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 0.1
    expected = plain(logits, **sampling)  # type: ignore[arg-type]
    choices = [choice(seed=seed, temperature=1.0, **sampling) for seed in range(600)]
    tokens = [s.token_id for s in sample(logits.repeat(600, 1), choices)]
    assert all(expected[token] > 0 for token in tokens)
    # All of it is reached: the unlikelier half of what is kept comes up in proportion.
    kept = np.flatnonzero(expected)
    rare = kept[np.argsort(expected[kept])][: len(kept) // 2]
    assert abs(np.isin(tokens, rare).mean() - expected[rare].sum()) < 0.06


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(8, 640, generator=torch.Generator().manual_seed(2)) * 2
    params: list[dict[str, float]] = [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 0.0},
        {"temperature": 1.2, "top_k": 300},
        {"temperature": 1.0, "min_p": 0.02},
        {"temperature": 3.0, "top_p": 0.99, "logprobs": 3},
        {"temperature": 1.0, "typical_p": 0.2},
        {"temperature": 1.0, "typical_p": 0.8, "top_k": 30},
    ]
    alone = [sample(logits[[row]], [choice(seed=row, **p)])[0] for row, p in enumerate(params)]
    assert sample(logits.clone(), [choice(seed=row, **p) for row, p in enumerate(params)]) == alone


def test_greedy_takes_the_lowest_of_equally_likely_tokens() -> None:
    logits = torch.zeros(1, 512)
    logits[0, [77, 300, 301]] = 4
    assert sample(logits, [choice()])[0].token_id == 77


def test_the_lowest_temperature_is_greedy() -> None:
    logits = torch.randn(1, 64)
    best = int(logits.argmax())
    assert sample(logits, [choice(temperature=1e-300)])[0].token_id == best


def adjusted(logits: torch.Tensor, sequence: Sequence) -> list[float]:
    """What a row's logits have become by the time that it is sampled."""
    row = logits[None].clone()
    sample(row, [sequence])
    return [round(value, 4) for value in row[0].tolist()]


def test_biases_and_penalties_are_those_of_the_definition() -> None:
    logits = torch.tensor([1.0, -1.0, 2.0, -2.0, 3.0, 4.0])
    sequence = choice(
        [2, 3],
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={1: 10.0, 2: 2.0, 5: -1.0},
        max_tokens=9,
    )
    for token in (4, 4, 3):
        sequence.append(token, None)
    #       nothing, bias only, in the prompt,  in both,            answered twice,           bias only
    assert adjusted(logits, sequence) == [1, 9, (2 + 2) / 2, -2 * 2 - 0.5 - 0.25, 3 / 2 - 0.5 - 2 * 0.25, 3]


def test_end_tokens_are_forbidden_before_min_tokens() -> None:
    logits = torch.tensor([9.0, 1.0, 8.0, 2.0])
    sequence = choice([1], min_tokens=1, stop_token_ids=(2,))
    assert sample(logits[None].clone(), [sequence])[0].token_id == 3
    sequence.append(3, None)
    assert sample(logits[None].clone(), [sequence])[0].token_id == 0


def test_the_last_token_of_a_bad_sequence_is_forbidden_after_the_others() -> None:
    logits = torch.tensor([1.0, 9.0, 8.0, 7.0])
    sequence = choice([3, 3], bad_token_ids=((1,), (3, 3, 2), (2, 2)))
    assert sample(logits[None].clone(), [sequence])[0].token_id == 2, "the prompt is no part of the answer"
    sequence.append(2, None)
    assert sample(logits[None].clone(), [sequence])[0].token_id == 3
    sequence.append(3, None)
    sequence.append(3, None)
    assert sample(logits[None].clone(), [sequence])[0].token_id == 3
    sequence.append(1, None)
    assert sample(logits[None].clone(), [sequence])[0].token_id == 2


def test_bad_sequences_are_each_rows_own() -> None:
    logits = torch.tensor([1.0, 9.0, 8.0, 7.0]).repeat(3, 1)
    bads: list[tuple[tuple[int, ...], ...]] = [((1,),), (), ((1,), (2,))]
    samples = sample(logits, [choice([3], bad_token_ids=bad) for bad in bads])
    assert [s.token_id for s in samples] == [2, 1, 3]


class Only:
    """Masks that allow these tokens in every row.

    Attributes:
        ahead: they are filled whether anybody asks or not.
        masked: how many rows have been masked.
        searched: how many rows have been searched for their likeliest token.
    """

    def __init__(self, *allowed: int, ahead: bool = False) -> None:
        self._allowed = list(allowed)
        self.ahead = ahead
        self.masked = self.searched = 0

    def judges(self, index: int) -> bool:
        return not self.ahead

    def allows(self, tokens: TokenIds[int]) -> list[bool]:
        return [token in self._allowed for token in tokens]

    def mask(self, logits: torch.Tensor, chosen: TokenIds[int], rows: TokenIds[int]) -> None:
        self.masked += len(rows)
        for row in rows:
            keep = logits[row, self._allowed].clone()
            logits[row] = -torch.inf
            logits[row, self._allowed] = keep

    def likeliest(
        self, logits: torch.Tensor, chosen: TokenIds[int], rows: TokenIds[int]
    ) -> tuple[list[float], list[int]]:
        self.searched += len(rows)
        values, places = logits[list(rows)][:, self._allowed].max(-1)
        return values.tolist(), [self._allowed[place] for place in places.tolist()]

    def masses(self, logits: torch.Tensor, chosen: TokenIds[int], rows: TokenIds[int]) -> list[float]:
        masses: list[float] = logits[list(rows)].softmax(-1)[:, self._allowed].sum(-1).tolist()
        return masses


def guided(**sampling: object) -> Sequence:
    """A choice under a grammar whose allowed mass is always measured."""
    sequence = choice([1], **sampling)
    sequence.request = replace(sequence.request, grammar=GRAMMAR, measure_mass=True)
    return sequence


def test_a_grammar_that_allows_only_the_end_wins_over_min_tokens() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 5.0]])
    assert sample(logits.clone(), [guided(min_tokens=4)], Only(0))[0] == Sample(
        0, allowed_mass=pytest.approx(math.exp(1) / (math.exp(1) + 3 * math.exp(5)))
    )
    assert sample(logits.clone(), [guided(min_tokens=4)], Only(0, 2))[0].token_id == 2


def test_a_grammar_that_allows_only_what_is_bad_wins_in_its_own_row() -> None:
    logits = torch.tensor([1.0, 5.0, 5.0, 4.0]).repeat(2, 1)
    sequences = [guided(bad_token_ids=((1,), (2,))), choice([1], bad_token_ids=((1,), (2,)))]
    samples = sample(logits.clone(), sequences, Only(2))
    assert [(s.token_id, s.error) for s in samples] == [(2, None), (3, None)]
    assert sample(logits[:1].clone(), sequences[:1], Only(0, 2))[0].token_id == 0


def test_the_allowed_mass_is_the_models_own_probability_of_what_the_mask_allows() -> None:
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(3))
    expected = logits.softmax(-1)[0, [4, 9]].sum().item()
    drawn = sample(logits.clone(), [guided(temperature=0.3, logit_bias={4: 5.0})], Only(4, 9))[0]
    assert drawn.allowed_mass == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.99}, {}], ids=str)
def test_what_a_mask_forbids_is_never_sampled(sampling: dict[str, float]) -> None:
    logits = torch.randn(500, 320, generator=torch.Generator().manual_seed(4)) * 3
    samples = sample(logits, [guided(seed=seed, **sampling) for seed in range(500)], Only(3, 317))
    assert set(Counter(s.token_id for s in samples)) == {3, 317}


@pytest.mark.parametrize(("ahead", "searched"), [(False, 1), (True, 2)])
def test_only_a_row_whose_choice_is_forbidden_is_searched_unless_masks_are_filled_anyway(
    ahead: bool, searched: int
) -> None:
    logits = torch.randn(3, 320, generator=torch.Generator().manual_seed(7))
    likeliest = logits.argsort(-1, descending=True)
    masks = Only(*likeliest[0, :1].tolist(), *likeliest[1, 3:4].tolist(), *likeliest[2, :1].tolist(), ahead=ahead)
    rows = [guided(), guided(), choice([1])]
    for row in rows:
        row.request = replace(row.request, measure_mass=False)
    tokens = [s.token_id for s in sample(logits.clone(), rows, masks)]
    assert masks.allows(tokens[:2]) == [True, True]
    assert (masks.searched, masks.masked) == (searched, 0)
    assert tokens[0] == likeliest[0, 0]
    assert tokens[2] == likeliest[2, 0]


def test_rows_of_which_a_token_is_drawn_are_masked_where_masks_are_filled_anyway() -> None:
    logits = torch.randn(3, 320, generator=torch.Generator().manual_seed(7))
    masks = Only(5, 6, ahead=True)
    samples = sample(logits, [guided(temperature=1), guided(), choice([1], temperature=1)], masks)
    assert (masks.searched, masks.masked) == (1, 1)
    assert masks.allows([s.token_id for s in samples[:2]]) == [True, True]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.7}, {"top_p": 0.7}, {"min_p": 0.2}, {"typical_p": 0.4}], ids=str
)
def test_draws_under_a_mask_follow_the_distribution_of_what_it_allows(sampling: dict[str, float]) -> None:
    logits = torch.randn(48, generator=torch.Generator().manual_seed(8)) * 2
    allowed = torch.randperm(48, generator=torch.Generator().manual_seed(9))[:12].tolist()
    masked = torch.full_like(logits, -torch.inf)
    masked[allowed] = logits[allowed]
    expected = plain(masked, **sampling)  # type: ignore[arg-type]
    choices = [guided(seed=seed, **{"temperature": 1.0, **sampling}) for seed in range(DRAWS)]
    tokens = [s.token_id for s in sample(logits.repeat(DRAWS, 1), choices, Only(*allowed))]
    shares = np.bincount(tokens, minlength=48) / DRAWS
    assert np.all(shares[expected == 0] == 0)
    assert np.abs(shares - expected).max() < 4.5 * math.sqrt(0.25 / DRAWS)


def test_measuring_the_allowed_mass_changes_no_draw() -> None:
    logits = torch.randn(200, 64, generator=torch.Generator().manual_seed(10)) * 2
    tokens = []
    for asked, at_this_step in ((True, False), (False, True), (False, False)):
        rows = [guided(seed=seed, temperature=1.0) for seed in range(200)]
        for row in rows:
            row.request = replace(row.request, measure_mass=asked)
        samples = sample(logits.clone(), rows, Only(*range(0, 64, 2)), measure_masses=at_this_step)
        tokens.append([s.token_id for s in samples])
        assert all((s.allowed_mass is not None) == (asked or at_this_step) for s in samples)
    assert tokens[0] == tokens[1] == tokens[2]


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(5)) * 3
    expected = logits[0].log_softmax(-1)
    drawn = sample(logits.clone(), [choice(temperature=2.0, logprobs=3, logit_bias={11: 100.0})])[0]
    assert drawn.token_id == 11
    assert drawn.logprob is not None
    assert drawn.logprob.logprob == pytest.approx(expected[11].item(), abs=1e-4)
    values, ids = expected.topk(3)
    assert [token for token, _ in drawn.logprob.top] == ids.tolist()
    assert [value for _, value in drawn.logprob.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5, "logprobs": 2}], ids=str
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_invalid_logits_fail_their_own_row_only(bad: float, sampling: dict[str, float]) -> None:
    logits = torch.randn(3, 64, generator=torch.Generator().manual_seed(6))
    expected = [sample(logits[[row]].clone(), [choice(seed=row, **sampling)])[0] for row in (0, 2)]
    logits[1, 10] = bad
    first, second, third = sample(logits, [choice(seed=row, **sampling) for row in range(3)])
    assert [first, third] == expected
    assert second.error is not None
    assert "NaN" in second.error


def test_a_row_with_nothing_left_says_so() -> None:
    assert "forbidden" in (sample(torch.full((1, 64), -torch.inf), [choice()])[0].error or "")
