"""Log-probabilities that answers report: the log-softmax of the model's raw logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from guidance_core.generation import TokenLogprob


def log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """``logits.logsumexp(-1)`` of ``[rows, vocabulary]``; half its time on a CPU, where softmax is one fused pass."""
    return logits.amax(-1) - logits.softmax(-1).amax(-1).log()


def token_logprobs(
    logits: torch.Tensor, token_ids: Sequence[int], top: Sequence[int], *, ranked: bool = False
) -> list[TokenLogprob]:
    """Log-probabilities of one chosen token per row, and of the row's likeliest.

    Args:
        logits: float32 ``[rows, vocabulary]``, as the model gave them.
        token_ids: the chosen token of each row.
        top: how many of the likeliest each row reports.
        ranked: tell each token's rank, too.
    """
    normaliser = log_sum_exp(logits)[:, None]
    chosen = logits.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])
    ranks = (logits >= chosen).sum(-1).tolist() if ranked else [None] * len(token_ids)
    values, ids = logits.topk(min(max(top), logits.shape[1]), dim=-1)
    likeliest = zip((values - normaliser).tolist(), ids.tolist(), strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(row_ids[:k], row_values[:k], strict=True)), rank)
        for token, (logprob,), k, (row_values, row_ids), rank in zip(
            token_ids, (chosen - normaliser).tolist(), top, likeliest, ranks, strict=True
        )
    ]
