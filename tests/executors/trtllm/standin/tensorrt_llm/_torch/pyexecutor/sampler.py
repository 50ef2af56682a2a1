"""``tensorrt_llm/_torch/pyexecutor/sampler.py`` of 1.2: what its samplers read of a request, and no more."""

from __future__ import annotations

import torch

from tensorrt_llm.sampling_params import SamplingParams


class TorchSampler:
    """Reads temperature, top_k, top_p and the embedding bias; one generator with a fixed seed serves all."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def check_biases(self, batch: list[SamplingParams]) -> None:
        """Fail a step as ``TorchSampler._apply_embedding_bias`` does, where the loop's last bias decides for all.

        Args:
            batch: parameters of all that is sampled, in the order of the rows.
        """
        if any(params.embedding_bias is not None for params in batch):
            assert batch[-1].embedding_bias is not None, "otherwise bias_to_index is empty"

    def sample(self, logits: torch.Tensor, params: SamplingParams, position: int) -> int:
        """The next token.

        Args:
            logits: float32 [vocabulary], after processors and masks; changed.
            params: of the request.
            position: of the token in the answer.
        """
        if params.embedding_bias is not None:
            logits[: len(params.embedding_bias)] += params.embedding_bias
        greedy = params.top_k == 1 or params.top_p == 0 or params.temperature == 0
        unset = params.top_k is None and params.top_p is None and params.temperature is None
        if greedy or unset:
            return int(logits.argmax())
        logits /= 1.0 if params.temperature is None else params.temperature
        if params.top_k:
            logits[logits < logits.topk(min(params.top_k, len(logits))).values[-1]] = -torch.inf
        probabilities = logits.softmax(-1)
        if params.top_p is not None and params.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            ordered[ordered.cumsum(-1) - ordered >= params.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter_(0, order, ordered)
        return int(torch.multinomial(probabilities, 1, generator=self._generator_for(params, position)))

    def _generator_for(self, params: SamplingParams, position: int) -> torch.Generator:
        return self._generator


class CppDecoder(TorchSampler):
    """The decoder of compiled engines: a seed for each request, by default 0."""

    def check_biases(self, batch: list[SamplingParams]) -> None:
        """Each request has its own (`initializeEmbeddingBias` in ``createNewDecoderRequests.cpp``)."""

    def _generator_for(self, params: SamplingParams, position: int) -> torch.Generator:
        return torch.Generator().manual_seed((params.seed or 0) + position)
