"""The CPU twin of the mask kernel: numpy's vector loops, without a branch per logit and without a compiler.

What a mask costs depends on its kind. Where nearly everything is allowed, reading the mask is the work, and the few
forbidden tokens are written one by one. Where nearly everything is forbidden, the row is filled and the few allowed
logits are put back. In between, a lookup table turns each byte of the mask into eight words of all ones or all zeros,
and integer arithmetic does the rest: ``numpy.putmask``, ``torch.where`` and ``masked_fill_`` branch on every element
and take ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")


class _Kind:
    """A type of logits as integers of the same width.

    Attributes:
        integer: torch's integer type.
        minus_infinity: −inf's bits.
        spread: [256, 8]: for each byte of a mask, all ones where a bit is one, lowest bit first.
    """

    def __init__(self, integer: torch.dtype, minus_infinity: np.int32 | np.int16) -> None:
        self.integer = integer
        self.minus_infinity = minus_infinity
        self.spread = np.where(_BITS, -1, 0).astype(minus_infinity.dtype)


_KINDS = {
    torch.float32: _Kind(torch.int32, np.int32(-0x0080_0000)),
    torch.float16: _Kind(torch.int16, np.int16(-0x0400)),
    torch.bfloat16: _Kind(torch.int16, np.int16(-0x0080)),
}

_FEW = 16
"""One in so many words of a mask is few."""

_Integers = npt.NDArray[np.signedinteger]


def mask_on_cpu(logits: torch.Tensor, bitmask: torch.Tensor, targets: Sequence[int]) -> None:
    """Set what is forbidden to −inf, in place; see `kernels.mask_logits.mask_logits`, which has checked the arguments.

    Args:
        logits: [rows, vocabulary] on the CPU, each row contiguous.
        bitmask: int32 [n, words] on the CPU, each row contiguous.
        targets: the row of ``logits`` of each mask.
    """
    count, vocabulary = len(targets), logits.shape[1]
    kind = _KINDS[logits.dtype]
    if bitmask.shape[1] * 32 < vocabulary:
        for target in targets:
            logits[target, bitmask.shape[1] * 32 :] = -torch.inf
    values: _Integers = logits.view(kind.integer).numpy()
    masks: npt.NDArray[np.int32] = bitmask.numpy()[:count, : -(-vocabulary // 32)]
    words = masks.shape[1]

    places = (masks != -1).reshape(-1).nonzero()[0]  # of words that forbid something
    if places.size * _FEW > words:  # else there are few even in a single mask
        bounds = places.searchsorted(np.arange(count + 1) * words)
        sizes = bounds[1:] - bounds[:-1]
        dense = sizes * _FEW > words
        for source in dense.nonzero()[0].tolist():
            row = values[targets[source]]
            mask = masks[source]
            allowing = mask.nonzero()[0]
            if allowing.size * _FEW > words:
                _mask_row(row, mask, kind)
            else:
                _keep_few(row, mask, allowing, kind)
        places = places[~dense.repeat(sizes)]
    if places.size:
        sources, columns = np.divmod(places, words)
        forbidden, tokens = _tokens(~masks[sources, columns], columns, vocabulary)
        if count == 1:
            values[targets[0]][tokens] = kind.minus_infinity
        else:
            values[np.asarray(targets)[sources[forbidden]], tokens] = kind.minus_infinity


def _tokens(
    words: npt.NDArray[np.int32], columns: npt.NDArray[np.intp], vocabulary: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The ones of some words of masks.

    Args:
        words: [n].
        columns: [n]; the place of each in its mask.
        vocabulary: tokens from here on are left out.

    Returns:
        For each one: which word, and which token.
    """
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").nonzero()[0]
    which = bits >> 5
    tokens = columns[which] * 32 + (bits & 31)
    if tokens.size and vocabulary % 32:
        inside = tokens < vocabulary
        return which[inside], tokens[inside]
    return which, tokens


def _keep_few(row: _Integers, mask: npt.NDArray[np.int32], allowing: npt.NDArray[np.intp], kind: _Kind) -> None:
    """Fill the row and put back what the words ``allowing`` of its mask allow."""
    _, tokens = _tokens(mask[allowing], allowing, len(row))
    kept = row[tokens]
    row.fill(kind.minus_infinity)
    row[tokens] = kept


def _mask_row(row: _Integers, mask: npt.NDArray[np.int32], kind: _Kind) -> None:
    """Without a branch: (x ^ −inf) & keep ^ −inf, for all words of the mask."""
    covered = row[: len(mask) * 32]
    keep = np.empty((len(mask) * 4, 8), dtype=row.dtype)
    np.take(kind.spread, mask.view(np.uint8), axis=0, out=keep, mode="clip")
    np.bitwise_xor(covered, kind.minus_infinity, out=covered)
    np.bitwise_and(covered, keep.reshape(-1)[: len(covered)], out=covered)
    np.bitwise_xor(covered, kind.minus_infinity, out=covered)
