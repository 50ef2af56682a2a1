"""Text-level models: text in, text out, through a tokenizer on the server."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2, service_pb2

from guidance_core.errors import GenerationFailed
from guidance_core.executors.base import ModelLimits
from guidance_core.executors.proof import Proof
from guidance_core.executors.triton.interface import (
    AnswerReader,
    Inputs,
    ModelInterface,
    StopModel,
    UnknownInterface,
    deviation,
)
from guidance_core.executors.triton.prompt_text import PromptText
from guidance_core.executors.triton.tensors import infer_request, numbers, strings
from guidance_core.executors.triton.token_model import NO_END
from guidance_core.generation import GenerationRequest, TokenDelta

_CUT = "\ufffd"
"""What a decoder writes for bytes that are no whole character."""


class _TextInterface(ModelInterface):
    """What text-level models have in common."""

    def __init__(
        self, config: model_config_pb2.ModelConfig, limits: ModelLimits, tokenizer: Tokenizer, prompts: PromptText
    ) -> None:
        super().__init__(config, limits)
        self._tokenizer = tokenizer
        self._prompts = prompts

    async def request(
        self, request: GenerationRequest, index: int, request_id: str, seed: int
    ) -> service_pb2.ModelInferRequest:
        """See `ModelInterface.request`."""
        inputs = self._sampling(request, seed, index)
        # Tokenising a long prompt would hold up the event loop.
        self._set(inputs, "prompt", [await asyncio.to_thread(self._prompts.text, request.prompt_ids)])
        return infer_request(self._model, request_id, inputs, self.outputs)

    def _refuse_tokens(self, request: GenerationRequest) -> None:
        """Refuse what can only be said in token ids."""
        if request.sampling.stop_token_ids:
            raise self._unsupported("stop_token_ids", "its model takes text, not tokens")
        if request.sampling.logit_bias:
            raise self._unsupported("logit_bias", "its model takes text, not tokens")
        if request.token_ids:
            raise self._unsupported("return_token_ids", "its model answers text, not tokens")


class TextModel(_TextInterface):
    """``ensemble`` and ``tensorrt_llm_bls``: a token-level model between a tokenizer and a detokenizer.

    They do not say why an answer ended, but how many tokens it has: with fewer than were asked for, it was an end token
    (or the engine's own ``max_seq_len``, if that is less than ``triton.max_model_len``).
    """

    kind = "text-level"
    input_names: ClassVar[Mapping[str, Sequence[str]]] = {
        "prompt": ("text_input",),
        "max_tokens": ("max_tokens",),
        "streaming": ("stream",),
        "exclude_prompt": ("exclude_input_in_output",),
        "count_tokens": ("return_num_output_tokens",),
        "end_id": ("end_id",),
        "pad_id": ("pad_id",),
        "stop_words": ("stop_words",),
        "temperature": ("temperature",),
        "top_k": ("top_k",),
        "top_p": ("top_p",),
        "seed": ("seed", "random_seed"),
        "repetition_penalty": ("repetition_penalty",),
        "min_tokens": ("min_tokens", "min_length"),
        "guide_type": ("guided_decoding_guide_type",),
        "guide": ("guided_decoding_guide",),
    }
    needed = frozenset({"prompt", "max_tokens", "streaming", "count_tokens", "end_id"})
    outputs = ("text_output", "num_output_tokens")

    def __init__(
        self,
        config: model_config_pb2.ModelConfig,
        limits: ModelLimits,
        tokenizer: Tokenizer,
        prompts: PromptText,
        *,
        accumulates: bool,
        stop_with: StopModel | None,
    ) -> None:
        """Find the names of its inputs.

        Args:
            config: the model's.
            limits: of the model that is served.
            tokenizer: its tokenizer.
            prompts: makes text of prompts.
            accumulates: each response has the whole text so far.
            stop_with: stops the token-level model in it.

        Raises:
            UnknownInterface: see `ModelInterface`; or it cannot be told all of several end tokens.
        """
        super().__init__(config, limits, tokenizer, prompts)
        if len(limits.eos_token_ids) > 1 and "stop_words" not in self._specs:
            raise UnknownInterface(
                f"The Triton server's model {config.name!r} has no stop_words, but the model has several end "
                "tokens: set triton.model to the token-level model."
            )
        self._accumulates = accumulates
        self.stop_with = stop_with

    def reader(self, request: GenerationRequest, index: int, proof: Proof | None) -> AnswerReader:
        """See `ModelInterface.reader`."""
        return _CountingReader(request, index, self._limits, proof, accumulates=self._accumulates)

    def _sampling(self, request: GenerationRequest, seed: int, index: int) -> Inputs:
        self._refuse_always(request)
        self._refuse_tokens(request)
        sampling = request.sampling
        inputs: Inputs = []
        self._set(inputs, "max_tokens", sampling.max_tokens)
        self._set(inputs, "streaming", True)
        self._set(inputs, "exclude_prompt", True)
        self._set(inputs, "count_tokens", True)
        first, *others = self._limits.eos_token_ids
        ends = not sampling.ignore_eos or request.grammar is not None
        self._set(inputs, "end_id", first if ends else NO_END)
        self._set(inputs, "pad_id", first)
        if others and ends:
            words = [self._tokenizer.id_to_token(token) for token in others]
            self._set(inputs, "stop_words", [word for word in words if word is not None])
        if sampling.min_tokens and ends:
            if others:
                raise self._unsupported("min_tokens", "it keeps only one of several end tokens from coming")
            if request.grammar is not None:
                raise self._unsupported("min_tokens", "it would forbid the end even where the grammar allows no more")
            self._set(inputs, "min_tokens", sampling.min_tokens, field="min_tokens")
        self._set_draws(inputs, sampling, seed, index)
        if sampling.repetition_penalty != 1:
            self._set(inputs, "repetition_penalty", sampling.repetition_penalty, field="repetition_penalty")
        self._set_guide(inputs, request)
        return inputs


class LlmApiModel(_TextInterface):
    """The model of TensorRT-LLM's LLM API, also named ``tensorrt_llm``. It has no guided decoding."""

    kind = "LLM API"
    input_names: ClassVar[Mapping[str, Sequence[str]]] = {
        "prompt": ("text_input",),
        "max_tokens": ("sampling_param_max_tokens",),
        "streaming": ("streaming",),
        "exclude_prompt": ("sampling_param_exclude_input_from_output",),
        "finish_reason": ("return_finish_reason",),
        "temperature": ("sampling_param_temperature",),
        "top_k": ("sampling_param_top_k",),
        "top_p": ("sampling_param_top_p",),
        "seed": ("sampling_param_seed",),
    }
    needed = frozenset({"prompt", "max_tokens", "streaming", "finish_reason"})
    outputs = ("text_output", "finish_reason")

    def reader(self, request: GenerationRequest, index: int, proof: Proof | None) -> AnswerReader:
        """See `ModelInterface.reader`."""
        return _TellingReader(request, index, self._limits, proof, accumulates=True)

    def _sampling(self, request: GenerationRequest, seed: int, index: int) -> Inputs:
        self._refuse_always(request)
        self._refuse_tokens(request)
        sampling = request.sampling
        for field, default in (("repetition_penalty", 1), ("min_tokens", 0), ("ignore_eos", False)):
            if getattr(sampling, field) != default:
                raise self._unsupported(field)
        inputs: Inputs = []
        self._set(inputs, "max_tokens", sampling.max_tokens)
        self._set(inputs, "streaming", True)
        self._set(inputs, "exclude_prompt", True)
        self._set(inputs, "finish_reason", True)
        self._set_draws(inputs, sampling, seed, index)
        self._set_guide(inputs, request)
        return inputs


class _TextReader(AnswerReader):
    """Reads one choice."""

    def __init__(
        self,
        request: GenerationRequest,
        index: int,
        limits: ModelLimits,
        proof: Proof | None,
        *,
        accumulates: bool,
    ) -> None:
        self._request = request
        self._index = index
        self._limits = limits
        self._proof = proof
        self._accumulates = accumulates
        self._text = ""
        self._held = ""

    def read(self, response: service_pb2.ModelInferResponse) -> TokenDelta | None:
        """See `AnswerReader.read`."""
        texts = strings(response, "text_output")
        if not texts:
            return None
        self._note(response)
        text = self._new(texts[0].decode("utf-8", "replace"))
        return TokenDelta(index=self._index, text=self._proved(text)) if text else None

    def end(self) -> TokenDelta:
        """See `AnswerReader.end`."""
        ended = self._ended_by_token()
        ends = self._limits.eos_token_ids
        last = TokenDelta(
            index=self._index,
            text=self._held,
            finish_reason="stop" if ended else "length",
            stop_token_id=ends[0] if ended and len(ends) == 1 else None,
        )
        if self._proof is None:
            return last
        if not ended:
            # A character that was cut in two is not in the grammar, and need not be.
            return replace(last, text="", finish_reason="stop" if self._proof.stopped else "length")
        self._proved(self._held)
        if not self._proof.accepting:
            raise deviation("it ends where the grammar does not")
        return last

    @abstractmethod
    def _note(self, response: service_pb2.ModelInferResponse) -> None:
        """Take what tells later how the answer ended."""

    @abstractmethod
    def _ended_by_token(self) -> bool:
        """Whether an end token ended the answer; else it was cut off by ``max_tokens``.

        Raises:
            GenerationFailed: neither.
        """

    def _new(self, text: str) -> str:
        """The part of a response's text that is new and certain."""
        if not self._accumulates:
            return text
        # A character that is not complete yet changes with the next response.
        certain = text.rstrip(_CUT)
        if not certain.startswith(self._text):
            raise GenerationFailed("The Triton server changed text that it had sent already.")
        new = certain[len(self._text) :]
        self._text, self._held = certain, text[len(certain) :]
        return new

    def _proved(self, text: str) -> str:
        if self._proof is not None and text:
            if _CUT in text:
                raise deviation(
                    "its detokenizer cut a character in two; the token-level model, or accumulate_tokens in "
                    "tensorrt_llm_bls, does not"
                )
            self._proof.take_text(text)
        return text


class _CountingReader(_TextReader):
    """Tells the end by the number of tokens."""

    _count = 0

    def _note(self, response: service_pb2.ModelInferResponse) -> None:
        counted = numbers(response, "num_output_tokens")
        if not counted:
            raise GenerationFailed("The Triton server did not count its tokens, though it was asked to.")
        self._count += counted[0]

    def _ended_by_token(self) -> bool:
        sampling = self._request.sampling
        may_end = not sampling.ignore_eos or self._proof is not None
        return may_end and self._count < sampling.max_tokens


class _TellingReader(_TextReader):
    """Is told the end."""

    _reason = ""

    def _note(self, response: service_pb2.ModelInferResponse) -> None:
        reasons = strings(response, "finish_reason")
        self._reason = reasons[0].decode() if reasons else ""

    def _ended_by_token(self) -> bool:
        if self._reason not in ("stop", "length"):
            raise GenerationFailed(
                f"The Triton server ended the answer early ({self._reason or 'it did not say why'})."
            )
        return self._reason == "stop"
