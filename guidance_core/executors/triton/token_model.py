"""The token-level model (``tensorrt_llm``): token ids in, token ids out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from tritonclient.grpc import service_pb2

from guidance_core.errors import GenerationFailed
from guidance_core.executors.base import ModelLimits
from guidance_core.executors.proof import Proof
from guidance_core.executors.triton.interface import AnswerReader, Inputs, ModelInterface, deviation
from guidance_core.executors.triton.tensors import infer_request, numbers
from guidance_core.generation import FinishReason, GenerationRequest, TokenDelta

_log = logging.getLogger(__name__)

NO_END = -1
"""An ``end_id`` that no token has, as TensorRT-LLM's own ``ignore_eos`` sends it."""


class TokenModel(ModelInterface):
    """Requests to it, and their answers.

    TensorRT-LLM ends an answer silently at ``end_id``: the token is not in the output (``samplingTopKKernels.cu``: the
    sequence's length counts "only tokens to be outputted"), and an answer that the engine's own ``max_seq_len`` cut off
    looks the same. Single-token stop words do show in the output, so end tokens are sent as such wherever possible:
    then an answer that shows none, and is shorter than asked, was cut off.
    """

    kind = "token-level"
    input_names: ClassVar[Mapping[str, Sequence[str]]] = {
        "prompt": ("input_ids",),
        "prompt_length": ("input_lengths",),
        "max_tokens": ("request_output_len",),
        "streaming": ("streaming",),
        "exclude_prompt": ("exclude_input_in_output",),
        "end_id": ("end_id",),
        "pad_id": ("pad_id",),
        "stop_words": ("stop_words_list",),
        "temperature": ("temperature",),
        "top_k": ("runtime_top_k",),
        "top_p": ("runtime_top_p",),
        "seed": ("seed", "random_seed"),
        "repetition_penalty": ("repetition_penalty",),
        "min_tokens": ("min_tokens", "min_length"),
        "logit_bias": ("embedding_bias",),
        "guide_type": ("guided_decoding_guide_type",),
        "guide": ("guided_decoding_guide",),
    }
    needed = frozenset({"prompt", "prompt_length", "max_tokens", "streaming", "end_id", "stop_words"})
    outputs = ("output_ids", "sequence_length")

    async def request(
        self, request: GenerationRequest, index: int, request_id: str, seed: int
    ) -> service_pb2.ModelInferRequest:
        """See `ModelInterface.request`."""
        inputs = self._sampling(request, seed, index)
        self._set(inputs, "prompt", request.prompt_ids)
        self._set(inputs, "prompt_length", len(request.prompt_ids))
        return infer_request(self._model, request_id, inputs, self.outputs)

    def reader(self, request: GenerationRequest, index: int, proof: Proof | None) -> TokenReader:
        """See `ModelInterface.reader`."""
        return TokenReader(request, index, self._limits, proof)

    def _sampling(self, request: GenerationRequest, seed: int, index: int) -> Inputs:
        self._refuse_always(request)
        sampling = request.sampling
        inputs: Inputs = []
        self._set(inputs, "max_tokens", sampling.max_tokens)
        self._set(inputs, "streaming", True)
        self._set(inputs, "exclude_prompt", True)
        ends = end_tokens(request, self._limits)
        if sampling.min_tokens and ends:
            # Only `end_id` is kept from coming too early.
            if len(ends) > 1:
                raise self._unsupported("min_tokens", "it keeps only one of several end and stop tokens from coming")
            if request.grammar is not None:
                raise self._unsupported("min_tokens", "it would forbid the end even where the grammar allows no more")
            self._set(inputs, "min_tokens", sampling.min_tokens, field="min_tokens")
            self._set(inputs, "end_id", ends[0])
        else:
            self._set(inputs, "end_id", NO_END)
            if ends:
                # Row 0: the words' tokens; row 1: where each word ends.
                self._set(inputs, "stop_words", [ends, range(1, len(ends) + 1)])
        self._set(inputs, "pad_id", self._limits.eos_token_ids[0])
        self._set_draws(inputs, sampling, seed, index)
        if sampling.repetition_penalty != 1:
            self._set(inputs, "repetition_penalty", sampling.repetition_penalty, field="repetition_penalty")
        if sampling.logit_bias:
            bias = np.zeros(self._limits.vocab_size, np.float32)
            bias[list(sampling.logit_bias)] = list(sampling.logit_bias.values())
            self._set(inputs, "logit_bias", bias.tolist(), field="logit_bias")
        self._set_guide(inputs, request)
        return inputs


class TokenReader(AnswerReader):
    """Reads one choice."""

    def __init__(self, request: GenerationRequest, index: int, limits: ModelLimits, proof: Proof | None) -> None:
        """Start before the first response.

        Args:
            request: as it was sent.
            index: which choice.
            limits: the model's.
            proof: of the answer, where the request has a grammar.
        """
        self._request = request
        self._index = index
        self._own_ends = limits.eos_token_ids
        self._ends = end_tokens(request, limits)
        self._end_shows = not request.sampling.min_tokens
        self._proof = proof
        self._count = 0

    def read(self, response: service_pb2.ModelInferResponse) -> TokenDelta | None:
        """See `AnswerReader.read`."""
        tokens = numbers(response, "output_ids")
        lengths = numbers(response, "sequence_length")
        if not tokens or not lengths:
            return None
        tokens = tokens[: lengths[0]]
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        answered = tokens[:end]
        self._count += len(answered)
        if self._count > self._request.sampling.max_tokens:
            raise GenerationFailed("The Triton server answered more tokens than it was asked for.")
        if self._proof is not None:
            self._proof.take_tokens(answered)
        if end is not None:
            last = self._ended_by(tokens[end])
        elif self._count == self._request.sampling.max_tokens:
            last = self._last("stop" if self._proof is not None and self._proof.stopped else "length")
        else:
            last = TokenDelta(index=self._index)
        return replace(last, token_ids=tuple(answered))

    def end(self) -> TokenDelta:
        """See `AnswerReader.end`."""
        if self._proof is not None and self._proof.stopped:
            return self._last("stop")
        if not self._end_shows and self._ends:
            return self._ended_by(self._ends[0])
        _log.warning(
            "Triton cut an answer off after %d of %d tokens, with a prompt of %d: the engine's max_seq_len is less "
            "than triton.max_model_len, which should be lowered to it.",
            self._count,
            self._request.sampling.max_tokens,
            len(self._request.prompt_ids),
        )
        return self._last("length")

    def _ended_by(self, token: int) -> TokenDelta:
        if self._proof is None or self._proof.accepting:
            return self._last("stop", token)
        if token in self._own_ends:
            if self._proof.may_end_with(token):
                return self._last("stop", token)
            raise deviation("it ends where the grammar does not")
        return self._last("length", token)

    def _last(self, reason: FinishReason, token: int | None = None) -> TokenDelta:
        return TokenDelta(index=self._index, finish_reason=reason, stop_token_id=token)


def end_tokens(request: GenerationRequest, limits: ModelLimits) -> tuple[int, ...]:
    """The tokens that end an answer. Under a grammar its end is an end token, come what may."""
    own = () if request.sampling.ignore_eos and request.grammar is None else limits.eos_token_ids
    return tuple(dict.fromkeys((*own, *request.sampling.stop_token_ids)))
