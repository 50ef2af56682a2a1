"""Which tokens a sequence has seen, and how often it answered them: what penalties are computed from."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class TokenCounts:
    """Distinct tokens of one sequence, with the number of times that each is in the answer (0: only in the prompt).

    Kept as tensors that grow in place, so that a step costs neither a pass over the vocabulary nor one over the answer.

    Args:
        prompt: the prompt's tokens.
    """

    def __init__(self, prompt: Iterable[int]) -> None:
        distinct = dict.fromkeys(prompt)
        self._place = {token: place for place, token in enumerate(distinct)}
        self._ids = torch.zeros(len(distinct) + 64, dtype=torch.int64)
        self._counts = torch.zeros(len(distinct) + 64)
        self._ids[: len(distinct)] = torch.tensor(list(distinct), dtype=torch.int64)

    def add(self, token: int) -> None:
        """Count one more token of the answer."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = torch.cat([self._ids, torch.zeros_like(self._ids)])
            self._counts = torch.cat([self._counts, torch.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> torch.Tensor:
        """int64 [distinct tokens]."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> torch.Tensor:
        """float32 [distinct tokens]: how often each is in the answer."""
        return self._counts[: len(self._place)]
