"""What a model on the server takes and gives: one class for each interface that TensorRT-LLM's Triton backend has had.

Source: https://github.com/NVIDIA/TensorRT-LLM/tree/main/triton_backend/all_models (and, before it moved there,
https://github.com/triton-inference-server/tensorrtllm_backend). Names of inputs changed with the versions, so the
server is asked which it has; an input that it does not have is never sent, and what would need it is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2

from guidance_core.errors import ExecutorUnavailable, GenerationFailed, Unsupported
from guidance_core.executors.base import ModelLimits
from guidance_core.executors.proof import Proof, left_grammar
from guidance_core.executors.torch.draws import choice_seed
from guidance_core.executors.triton.guides import guide
from guidance_core.executors.triton.tensors import InputSpec, Value, infer_request, input_specs
from guidance_core.generation import GenerationRequest, SamplingParams, TokenDelta

MAX_TOP_K = 1024
"""TensorRT-LLM clips a larger ``top_k`` to this (``TOP_K_MAX`` in ``samplingTopKKernels.h``)."""

_GREEDY_BELOW = 1e-6
"""Temperatures whose inverse a float32 cannot apply to logits without overflow; no draw tells them from 0."""

Inputs = list[tuple[InputSpec, Value]]


class UnknownInterface(ExecutorUnavailable):
    """The server's model is none that can be used here; waiting does not help."""


def deviation(what: str) -> GenerationFailed:
    """The error of an answer that left its grammar, for who runs the server."""
    return GenerationFailed(
        f"{left_grammar(what).message} Does the model on the Triton server have guided_decoding_backend and "
        "tokenizer_dir set? An equivalent constraint in other words may help."
    )


class AnswerReader(ABC):
    """Turns the responses to one choice into deltas."""

    @abstractmethod
    def read(self, response: service_pb2.ModelInferResponse) -> TokenDelta | None:
        """What a response adds; None where that is nothing. With a finish reason, it is the last delta.

        Raises:
            GenerationFailed: the answer is not what it must be.
        """

    @abstractmethod
    def end(self) -> TokenDelta:
        """The last delta, where the stream ended without one: why, and what was held back until then.

        Raises:
            GenerationFailed: the answer is not what it must be, or was cut off by the server.
        """


class ModelInterface(ABC):
    """One model on the server, with the names that its inputs have there.

    Attributes:
        kind: for logs.
        stop_with: the model that a request with ``stop`` set, and the id of a running one, stops; None where
            cancelling the stream is enough.
    """

    kind: ClassVar[str]

    input_names: ClassVar[Mapping[str, Sequence[str]]]
    """What we call an input → what the versions have called it, newest first."""

    needed: ClassVar[frozenset[str]]
    """Inputs, as we call them, without which nothing works."""

    outputs: ClassVar[tuple[str, ...]]
    """Outputs without which nothing works."""

    stop_with: StopModel | None = None

    def __init__(self, config: model_config_pb2.ModelConfig, limits: ModelLimits) -> None:
        """Find the names.

        Args:
            config: the model's.
            limits: of the model that is served.

        Raises:
            UnknownInterface: the model asks for an input that is not known here, or lacks one that is needed.
        """
        self._model = config.name
        self._limits = limits
        specs = input_specs(config)
        self._specs = {
            ours: specs[name]
            for ours, names in self.input_names.items()
            for name in [next((name for name in names if name in specs), None)]
            if name is not None
        }
        known = {spec.name for spec in self._specs.values()}
        unknown = [spec.name for spec in specs.values() if not spec.optional and spec.name not in known]
        if unknown:
            raise UnknownInterface(
                f"The Triton server's model {config.name!r} asks for {', '.join(unknown)}, which are no inputs of a "
                "TensorRT-LLM language model that are known here: set triton.model to another one."
            )
        missing = [
            names[0] for ours, names in self.input_names.items() if ours in self.needed and ours not in self._specs
        ]
        missing += [name for name in self.outputs if name not in {output.name for output in config.output}]
        if missing:
            raise UnknownInterface(
                f"The Triton server's model {config.name!r} has no {', '.join(missing)}, without which it "
                "cannot be told why an answer ended: use the model repository of a newer TensorRT-LLM, or set "
                "triton.model to the token-level model."
            )

    def check(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do.

        Raises:
            Unsupported: the message names it.
        """
        self._sampling(request, seed=0, index=0)

    @abstractmethod
    async def request(
        self, request: GenerationRequest, index: int, request_id: str, seed: int
    ) -> service_pb2.ModelInferRequest:
        """The request for one choice.

        Args:
            request: checked before.
            index: which choice.
            request_id: unique on the server.
            seed: the request's, or a fresh one where it has none.

        Raises:
            Unsupported: as `check`.
        """

    @abstractmethod
    def reader(self, request: GenerationRequest, index: int, proof: Proof | None) -> AnswerReader:
        """What reads the responses to one choice."""

    @abstractmethod
    def _sampling(self, request: GenerationRequest, seed: int, index: int) -> Inputs:
        """All inputs but the prompt."""

    def _set(self, inputs: Inputs, ours: str, value: Value, *, field: str | None = None) -> None:
        """Add an input, or refuse the request where the model does not have it.

        Args:
            inputs: those so far.
            ours: a key of ``input_names``.
            value: to send.
            field: the request's field that asks for it; None: the input is left out where the model lacks it.
        """
        spec = self._specs.get(ours)
        if spec is not None:
            inputs.append((spec, value))
        elif field is not None:
            raise self._unsupported(field)

    def _unsupported(self, field: str, why: str | None = None) -> Unsupported:
        because = why or f"its model {self._model!r} has no input for it"
        return Unsupported(
            f"{field} cannot be honoured: the model runs on a Triton server, and {because}. Leave it out.", param=field
        )

    def _refuse_always(self, request: GenerationRequest) -> None:
        """Refuse what no version of any interface can do."""
        sampling = request.sampling
        if sampling.logprobs is not None:
            raise self._unsupported(
                "logprobs", "it reports log-probabilities after temperature and penalties, of chosen tokens only"
            )
        for field in ("presence_penalty", "frequency_penalty"):
            if getattr(sampling, field):
                raise self._unsupported(field, "TensorRT-LLM would count the prompt's tokens too")
        if sampling.min_p:
            raise self._unsupported("min_p")
        if sampling.typical_p < 1:
            raise self._unsupported("typical_p")
        if request.complete:
            raise self._unsupported("fit_to_max_tokens", "it cannot be told to end within max_tokens")

    def _set_draws(self, inputs: Inputs, sampling: SamplingParams, seed: int, index: int) -> None:
        """How the next token is drawn. TensorRT-LLM's own defaults are greedy, with seed 0: all is said explicitly."""
        if sampling.temperature < _GREEDY_BELOW:
            self._set(inputs, "top_k", 1, field="temperature")
            return
        top_k = sampling.top_k if sampling.top_k < self._limits.vocab_size else 0
        if top_k > MAX_TOP_K:
            raise self._unsupported("top_k", f"TensorRT-LLM keeps {MAX_TOP_K} tokens at most")
        self._set(inputs, "temperature", sampling.temperature, field="temperature")
        self._set(inputs, "top_k", top_k, field="top_k")
        self._set(inputs, "top_p", max(sampling.top_p, float(np.finfo(np.float32).tiny)), field="top_p")
        needed = "seed" if sampling.seed is not None else "n" if sampling.n > 1 else None
        self._set(inputs, "seed", choice_seed(seed, index), field=needed)

    def _set_guide(self, inputs: Inputs, request: GenerationRequest) -> None:
        if request.grammar is None:
            return
        guide_type, text = guide(request.grammar)
        self._set(inputs, "guide_type", guide_type, field="response_format")
        if text is not None:
            self._set(inputs, "guide", text, field="response_format")


@dataclass(frozen=True, slots=True)
class StopModel:
    """A token-level model, and what a request to stop one of its requests must hold besides ``stop``."""

    model: str
    inputs: tuple[tuple[InputSpec, Value], ...]

    def request(self, request_id: str) -> service_pb2.ModelInferRequest:
        """Stops the request of that id."""
        return infer_request(self.model, request_id, self.inputs)

    @classmethod
    def of(cls, config: model_config_pb2.ModelConfig) -> StopModel | None:
        """The model of a configuration; None where it cannot stop requests.

        As TensorRT-LLM's own client does it, inputs that are required are there, and empty:
        https://github.com/NVIDIA/TensorRT-LLM/blob/main/triton_backend/inflight_batcher_llm/client
        """
        specs = input_specs(config)
        if "stop" not in specs or "input_ids" not in specs:
            return None
        required = [spec for name, spec in specs.items() if name == "input_ids" or not spec.optional]
        return cls(config.name, (*((spec, [0]) for spec in required), (specs["stop"], True)))
