"""Logits in, tokens out: the order of operations is that of `SamplingParams`.

Everything is done for all rows of a step at once, and only what some row asks for. No row's result depends on another
row: the crowd changes neither what is drawn (`draws`) nor how.

A vocabulary is sorted only as far as its answer needs: a nucleus lies, as a rule, within the 256 likeliest tokens,
which are found in 2 ms for 32 rows of 49,152 logits where a sort takes 50 and `torch.multinomial` 25 (2 CPU cores). A
row whose nucleus is wider is looked at again with 16 times as many. Where nothing is cut off, nothing is sorted at all.

On a CPU, a greedy row under a grammar is not masked: its token is looked for among those that the mask allows. Where
matchers can judge a token by itself, no mask is needed as a rule: one is chosen as if there were no grammar, and only
where that forbids it is another chosen under the mask. The answer has the same distribution:
``P(t) + P(refused) · P(t | allowed) = P(t | allowed)`` for each allowed token t, since ``P(refused) = 1 − P(allowed)``;
greedily it is the very same answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Protocol

import torch

from guidance_core.executors.torch.logprobs import log_sum_exp, token_logprobs
from guidance_core.executors.torch.sequence import Sequence
from guidance_core.generation import SamplingParams, TokenLogprob

_CANDIDATES = 256
_MORE_CANDIDATES = 16
_MORE_DRAWS = 2
"""How often another token is drawn in the place of one after which an answer could not end in time."""

_LOWEST_TEMPERATURE = 1e-6
"""Below this, a difference that float32 logits can show decides everything; dividing by less could overflow."""


class Masks(Protocol):
    """What a `GuidanceBatch` has for the rows under a grammar, in their order; each method waits for the masks."""

    def judges(self, index: int) -> bool:
        """See `GuidanceBatch.judges`."""

    def allows(self, tokens: Rows[int]) -> list[bool]:
        """See `GuidanceBatch.allows`."""

    def mask(self, logits: torch.Tensor, chosen: Rows[int], rows: Rows[int]) -> None:
        """See `GuidanceBatch.mask`."""

    def masses(self, logits: torch.Tensor, chosen: Rows[int], rows: Rows[int]) -> list[float]:
        """See `GuidanceBatch.masses`."""

    def likeliest(self, logits: torch.Tensor, chosen: Rows[int], rows: Rows[int]) -> tuple[list[float], list[int]]:
        """See `GuidanceBatch.likeliest`."""

    def settle(self, chosen: Rows[int], tokens: Rows[int]) -> list[int]:
        """See `GuidanceBatch.settle`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of one row.

    Attributes:
        token_id: the sampled token; meaningless where there is an ``error``.
        logprob: where the request asks for it.
        allowed_mass: probability that the model gave to what the grammar allows, where it was measured.
        error: why nothing could be sampled.
    """

    token_id: int
    logprob: TokenLogprob | None = None
    allowed_mass: float | None = None
    error: str | None = None


def sample(
    logits: torch.Tensor, sequences: Rows[Sequence], masks: Masks | None = None, *, measure_masses: bool = False
) -> list[Sample]:
    """Choose the next token of each sequence.

    Args:
        logits: float32 ``[len(sequences), vocabulary]``; they are changed.
        sequences: one per row.
        masks: of the sequences that have a grammar, in their order; None where none has.
        measure_masses: measure the allowed probability of every row under a grammar, not only where it is asked for.
    """
    scored = [row for row, s in enumerate(sequences) if s.sampling.logprobs is not None]
    raw = logits[scored] if scored else None
    guided = [row for row, s in enumerate(sequences) if s.request.grammar is not None] if masks is not None else []
    measured = [i for i, row in enumerate(guided) if measure_masses or sequences[row].request.measure_mass]
    masses = _allowed_masses(logits, guided, measured, masks) if masks is not None and measured else {}
    # Masking first and adjusting what is left is the same as the other way round: −inf stays −inf.
    judged: list[int] = []
    searched: list[int] = []
    if masks is not None and guided:
        masked: list[int] = []
        for index, row in enumerate(guided):
            if masks.judges(index) and _may_mask_later(logits, sequences[row]):
                judged.append(index)
            else:
                (searched if _may_search(logits, sequences[row]) else masked).append(index)
        if masked:
            masks.mask(logits, masked, [guided[index] for index in masked])
    _add_biases(logits, sequences)
    _penalise(logits, sequences)
    _scale(logits, sequences)
    forbidden = _forbid(logits, sequences)

    if len(searched) < len(sequences):
        tokens, peaks = _choose(logits, sequences, range(len(sequences)), attempt=0)
    else:
        tokens, peaks = [0] * len(sequences), [-math.inf] * len(sequences)
    if masks is not None:
        _choose_again(logits, sequences, guided, searched, masks, tokens, peaks, attempt=0)
        if judged:
            allowed = masks.allows([tokens[row] for row in guided])
            refused = [index for index in judged if not allowed[index] and math.isfinite(peaks[guided[index]])]
            _choose_again(logits, sequences, guided, refused, masks, tokens, peaks, attempt=1)
        # A grammar may allow nothing but what is forbidden, such as the end: then that it is.
        stuck = [i for i, row in enumerate(guided) if peaks[row] == -math.inf and sequences[row].forbidden()]
        if stuck and forbidden is not None:
            _permit(logits, [guided[index] for index in stuck], *forbidden)
            _choose_again(logits, sequences, guided, stuck, masks, tokens, peaks, attempt=2)
    if masks is not None and any(s.request.complete for s in sequences):
        _settle(logits, sequences, guided, masks, tokens, peaks)
    logprobs: dict[int, TokenLogprob] = {}
    if raw is not None:
        top = [sequences[row].sampling.logprobs or 0 for row in scored]
        logprobs = dict(zip(scored, token_logprobs(raw, [tokens[row] for row in scored], top), strict=True))
    return [
        Sample(token, logprobs.get(row), masses.get(row), _error(peaks[row], logprobs.get(row)))
        for row, token in enumerate(tokens)
    ]


def _may_mask_later(logits: torch.Tensor, sequence: Sequence) -> bool:
    """Whether a token may be chosen before the row is masked.

    Not where what is cut off depends on what is allowed. Elsewhere than on a CPU masking costs less than asking.
    """
    sampling = sequence.sampling
    cut = sampling.temperature > 0 and (_keeps_likeliest(sampling, logits.shape[1]) or sampling.min_p > 0)
    return logits.device.type == "cpu" and not cut


def _may_search(logits: torch.Tensor, sequence: Sequence) -> bool:
    """Whether a token may be looked for among those that a mask allows, without masking the row.

    A CPU then reads what is allowed, and writes nothing.
    """
    return logits.device.type == "cpu" and sequence.sampling.temperature == 0


def _allowed_masses(logits: torch.Tensor, guided: list[int], measured: list[int], masks: Masks) -> dict[int, float]:
    """The probability that the model itself gives to what the grammar allows, by row; indices into ``guided``."""
    rows = [guided[index] for index in measured]
    masses = zip(rows, masks.masses(logits, measured, rows), strict=True)
    return {row: mass for row, mass in masses if not math.isnan(mass)}


def _choose(
    logits: torch.Tensor, sequences: Rows[Sequence], rows: Rows[int], attempt: int
) -> tuple[list[int], list[float]]:
    """A token of each of the rows, and its highest logit; ``attempt`` counts how often it was drawn before."""
    logits = _rows(logits, rows)
    likeliest, tokens_tensor = _argmax(logits)
    tokens: list[int] = tokens_tensor.tolist()
    peaks: list[float] = likeliest.tolist()
    random = [at for at, row in enumerate(rows) if sequences[row].sampling.temperature > 0 and math.isfinite(peaks[at])]
    if random:
        drawn = _draw(_rows(logits, random), [sequences[rows[at]] for at in random], attempt)
        for at, token in zip(random, drawn, strict=True):
            tokens[at] = token
    return tokens, peaks


def _choose_again(
    logits: torch.Tensor,
    sequences: Rows[Sequence],
    guided: list[int],
    chosen: list[int],
    masks: Masks,
    tokens: list[int],
    peaks: list[float],
    *,
    attempt: int,
) -> None:
    """Choose anew, as the masks allow, for some of the rows under a grammar; ``chosen``: indices into ``guided``."""
    searched = [index for index in chosen if _may_search(logits, sequences[guided[index]])]
    if searched:
        rows = [guided[index] for index in searched]
        for row, peak, token in zip(rows, *masks.likeliest(logits, searched, rows), strict=True):
            tokens[row], peaks[row] = token, peak
    if len(searched) < len(chosen):
        chosen = [index for index in chosen if index not in set(searched)]
        rows = [guided[index] for index in chosen]
        masks.mask(logits, chosen, rows)
        for row, token, peak in zip(rows, *_choose(logits, sequences, rows, attempt), strict=True):
            tokens[row], peaks[row] = token, peak


def _settle(
    logits: torch.Tensor,
    sequences: Rows[Sequence],
    guided: list[int],
    masks: Masks,
    tokens: list[int],
    peaks: list[float],
) -> None:
    """Replace the tokens after which a sequence could not end in time (`GenerationRequest.complete`).

    Others are drawn first, so that what is taken is still the model's choice among those that fit.
    """
    pending = [
        index for index, row in enumerate(guided) if sequences[row].request.complete and math.isfinite(peaks[row])
    ]
    for draw in range(_MORE_DRAWS + 1):
        settled = masks.settle(pending, [tokens[guided[index]] for index in pending])
        refused = {i: token for i, token in zip(pending, settled, strict=True) if token != tokens[guided[i]]}
        if not refused:
            return
        pending, rows = list(refused), [guided[index] for index in refused]
        if draw < _MORE_DRAWS:
            before = [peaks[row] for row in rows]
            logits[rows, [tokens[row] for row in rows]] = -torch.inf
            _choose_again(logits, sequences, guided, pending, masks, tokens, peaks, attempt=3 + draw)
        for place, (row, token) in enumerate(zip(rows, refused.values(), strict=True)):
            if draw == _MORE_DRAWS:
                tokens[row] = token
            elif peaks[row] == -math.inf:  # nothing else is allowed
                tokens[row], peaks[row] = token, before[place]


def _error(peak: float, logprob: TokenLogprob | None) -> str | None:
    if peak == -math.inf:
        return "No token is left to be sampled: everything is forbidden."
    if not math.isfinite(peak) or (logprob is not None and math.isnan(logprob.logprob)):
        return "The model computed invalid numbers (NaN or infinity) for this request."
    return None


def _rows(logits: torch.Tensor, rows: Rows[int]) -> torch.Tensor:
    """Some rows; a copy only where they are not all."""
    return logits if len(rows) == logits.shape[0] else logits[list(rows)]


def _blocks(values: torch.Tensor) -> torch.Tensor:
    """``[rows, vocabulary]`` as ``[rows, blocks, block]``: two short searches are faster than a long one."""
    rows, vocabulary = values.shape
    return values.view(rows, -1, math.gcd(vocabulary, _CANDIDATES))


def _argmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest value and its first index, of each row. NaN counts as highest."""
    blocks = _blocks(logits)
    peaks = blocks.amax(-1)
    block = peaks.argmax(-1, keepdim=True)
    within = blocks.gather(1, block[:, :, None].expand(-1, -1, blocks.shape[2]))[:, 0].argmax(-1)
    return peaks.gather(1, block)[:, 0], block[:, 0] * blocks.shape[2] + within


def _flat(logits: torch.Tensor, rows: list[int], ids: list[torch.Tensor]) -> torch.Tensor:
    """Indices into ``logits.view(-1)`` of some tokens of some rows."""
    indices = torch.cat([ids_of_row + row * logits.shape[1] for row, ids_of_row in zip(rows, ids, strict=True)])
    return indices.to(logits.device)


def _add_biases(logits: torch.Tensor, sequences: Rows[Sequence]) -> None:
    rows = [row for row, s in enumerate(sequences) if s.sampling.logit_bias]
    if not rows:
        return
    biases = [sequences[row].sampling.logit_bias for row in rows]
    indices = _flat(logits, rows, [torch.tensor(list(bias)) for bias in biases])
    values = torch.tensor([value for bias in biases for value in bias.values()], device=logits.device)
    logits.view(-1).index_add_(0, indices, values)


def _penalise(logits: torch.Tensor, sequences: Rows[Sequence]) -> None:
    rows, counts = [], []
    for row, sequence in enumerate(sequences):
        if sequence.counts is not None:
            rows.append(row)
            counts.append(sequence.counts)
    if not rows:
        return
    indices = _flat(logits, rows, [c.ids for c in counts])
    seen = torch.cat([c.counts for c in counts]).to(logits.device)
    params = [sequences[row].sampling for row in rows]
    lengths = torch.tensor([len(c.ids) for c in counts])
    of_row = torch.tensor([[p.repetition_penalty, p.presence_penalty, p.frequency_penalty] for p in params])
    repetition, presence, frequency = of_row.repeat_interleave(lengths, 0).to(logits.device).unbind(1)
    flat = logits.view(-1)
    values = flat[indices]
    values = torch.where(values > 0, values / repetition, values * repetition)
    flat[indices] = values - presence * (seen > 0) - frequency * seen


def _forbid(logits: torch.Tensor, sequences: Rows[Sequence]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Forbid end tokens where they must not come yet, and what would complete a bad sequence.

    Returns:
        Indices into ``logits.view(-1)`` and what was there before.
    """
    ids = {row: tokens for row, s in enumerate(sequences) if (tokens := s.forbidden())}
    if not ids:
        return None
    indices = _flat(logits, list(ids), [torch.tensor(tokens) for tokens in ids.values()])
    flat = logits.view(-1)
    before = flat[indices]
    flat[indices] = -torch.inf
    return indices, before


def _permit(logits: torch.Tensor, rows: list[int], indices: torch.Tensor, before: torch.Tensor) -> None:
    """Take back in some rows what `_forbid` did."""
    permitted = torch.isin(indices // logits.shape[1], torch.tensor(rows, device=logits.device))
    logits.view(-1)[indices[permitted]] = before[permitted]


def _scale(logits: torch.Tensor, sequences: Rows[Sequence]) -> None:
    """Divide by the temperatures of the rows that have one."""
    temperatures = [
        max(s.sampling.temperature, _LOWEST_TEMPERATURE) if s.sampling.temperature else 1 for s in sequences
    ]
    if any(t != 1 for t in temperatures):
        logits.div_(torch.tensor(temperatures, device=logits.device)[:, None])


def _draw(logits: torch.Tensor, sequences: Rows[Sequence], attempt: int) -> list[int]:
    """One token per row, at random."""
    numbers = torch.tensor([s.uniform(attempt) for s in sequences], dtype=torch.float64, device=logits.device)
    vocabulary = logits.shape[1]
    cut = [row for row, s in enumerate(sequences) if _keeps_likeliest(s.sampling, vocabulary)]
    if len(cut) == len(sequences):
        return _draw_likeliest(logits, sequences, numbers, _CANDIDATES)
    if not cut:
        return _draw_any(logits, sequences, numbers)
    tokens = [0] * len(sequences)
    uncut = [row for row in range(len(sequences)) if row not in set(cut)]
    for rows, drawn in (
        (cut, _draw_likeliest(logits[cut], [sequences[r] for r in cut], numbers[cut], _CANDIDATES)),
        (uncut, _draw_any(logits[uncut], [sequences[r] for r in uncut], numbers[uncut])),
    ):
        for row, token in zip(rows, drawn, strict=True):
            tokens[row] = token
    return tokens


def _keeps_likeliest(sampling: SamplingParams, vocabulary: int) -> bool:
    """Whether what is kept depends on how many tokens are likelier, or on what they have together."""
    return sampling.top_p < 1 or sampling.typical_p < 1 or 0 < sampling.top_k < vocabulary


def _draw_any(logits: torch.Tensor, sequences: Rows[Sequence], numbers: torch.Tensor) -> list[int]:
    """Draw from whole rows, which min_p alone may cut: find the block of the vocabulary first, then the token in it."""
    weights = logits.softmax(-1)
    if any(s.sampling.min_p for s in sequences):
        shares = torch.tensor([s.sampling.min_p for s in sequences], device=logits.device)[:, None]
        weights *= weights >= shares * weights.amax(-1, keepdim=True)
    blocks = _blocks(weights)
    sums = blocks.sum(-1).double()
    block, rest = _find(sums, numbers * sums.sum(-1))
    inner = blocks.gather(1, block[:, None, None].expand(-1, -1, blocks.shape[2]))[:, 0].double()
    token, _ = _find(inner, rest)
    tokens: list[int] = (block * blocks.shape[2] + token).tolist()
    return tokens


def _draw_likeliest(
    logits: torch.Tensor, sequences: Rows[Sequence], numbers: torch.Tensor, candidates: int
) -> list[int]:
    """Draw from the likeliest tokens of each row, as many as top_k, top_p, min_p and typical_p leave."""
    device, vocabulary = logits.device, logits.shape[1]
    candidates = min(candidates, vocabulary)
    values, ids = logits.topk(candidates, dim=-1)
    weights = (values - values[:, :1]).double().exp()
    params = [s.sampling for s in sequences]
    top_k = torch.tensor([min(p.top_k or vocabulary, vocabulary) for p in params], device=device)[:, None]
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)[:, None]
    min_p = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=device)[:, None]
    weights *= torch.arange(candidates, device=device) < top_k
    reached = weights.cumsum(-1)
    # top_p is a share of what top_k leaves, which may be the whole vocabulary.
    total = reached[:, -1:]
    if any((p.top_p < 1 or p.typical_p < 1) and not 0 < p.top_k <= candidates for p in params):
        everything = (log_sum_exp(logits) - values[:, 0]).double().exp()[:, None]
        total = torch.where(top_k <= candidates, total, everything)
    nucleus = top_p * total
    last = weights[:, -1:]
    unknown = (top_k < vocabulary) | (reached[:, -1:] < nucleus)
    wider = (top_k > candidates) & unknown & (last > 0) & (last >= min_p)
    # `reached - weights` is what the likelier tokens have already.
    weights *= (reached - weights < nucleus) & (weights >= min_p)
    if any(p.typical_p < 1 for p in params):
        masses = torch.tensor([p.typical_p for p in params], dtype=torch.float64, device=device)[:, None]
        weights *= _typical(weights / weights.sum(-1, keepdim=True), masses)
    place, _ = _find(weights, numbers * weights.sum(-1))
    tokens: list[int] = ids.gather(1, place[:, None])[:, 0].tolist()
    if candidates < vocabulary:
        rows = [row for row, is_wider in enumerate(wider[:, 0].tolist()) if is_wider]
        if rows:
            again = _draw_likeliest(
                logits[rows], [sequences[row] for row in rows], numbers[rows], candidates * _MORE_CANDIDATES
            )
            for row, token in zip(rows, again, strict=True):
                tokens[row] = token
    return tokens


def _typical(shares: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
    """Which tokens are locally typical; those that are as far from the entropy as the last one are kept, too.

    Args:
        shares: float64 ``[rows, n]``, the probabilities that the other cuts leave.
        masses: float64 ``[rows, 1]``, typical_p.
    """
    distances = (-shares.log() - torch.special.entr(shares).sum(-1, keepdim=True)).abs()
    nearest, places = distances.sort(-1)
    reached = shares.gather(1, places).cumsum(-1)
    last = (reached < masses).sum(-1, keepdim=True).clamp(max=shares.shape[1] - 1)
    typical: torch.Tensor = (distances <= nearest.gather(1, last)) | (masses >= 1)
    return typical


def _find(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a running sum passes ``target``: index and what is left of ``target`` there, of each row.

    Never an index of weight 0, whatever rounding does.

    Args:
        weights: float64 ``[rows, n]``, not negative, not all 0.
        target: float64 ``[rows]``, from 0 to below the sum.
    """
    reached = weights.cumsum(-1)
    total = reached[:, -1]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(reached, target[:, None], right=True)[:, 0]
    before = reached.gather(1, index[:, None])[:, 0] - weights.gather(1, index[:, None])[:, 0]
    return index, (target - before).clamp_(min=0)
