"""A choice as TensorRT-LLM's ``SamplingParams``, and what its samplers are not trusted with."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from guidance_core.executors.trtllm.installation import Installation
from guidance_core.executors.trtllm.model_folder import ModelFolder
from guidance_core.generation import GenerationRequest

_MOST_STOP_TOKENS = 8
"""The PyTorch backend's sampler compares them one by one, in Python (``TorchSampler._are_stop_words``); the service
recognises the others, a step later."""

_LOWEST_TEMPERATURE = 1e-4
_HIGHEST_TEMPERATURE = 1e4


@dataclass(frozen=True, slots=True)
class EngineSampling:
    """What to send along with a prompt.

    Attributes:
        end_ids: tokens that end the answer; the first is the engine's ``end_id``.
        params: ``tensorrt_llm.SamplingParams``.
    """

    end_ids: tuple[int, ...]
    params: Any


def drawn_for(request: GenerationRequest) -> tuple[str, ...]:
    """The fields for whose sake our own sampler must choose the tokens: an engine's would do something else.

    What each engine's does is said in `steering`.
    """
    sampling = request.sampling
    temperature = sampling.temperature
    reasons = {
        "seed": sampling.seed is not None,
        "logprobs": sampling.logprobs is not None,
        "min_p": sampling.min_p > 0,
        "typical_p": sampling.typical_p < 1,
        "min_tokens": sampling.min_tokens > 0,
        "repetition_penalty": sampling.repetition_penalty != 1,
        "presence_penalty": sampling.presence_penalty != 0,
        "frequency_penalty": sampling.frequency_penalty != 0,
        "bad_words": bool(sampling.bad_token_ids),
        "ignore_eos": sampling.ignore_eos and request.grammar is not None,
        "logit_bias": bool(sampling.logit_bias),
        "temperature": temperature > 0 and not _LOWEST_TEMPERATURE <= temperature <= _HIGHEST_TEMPERATURE,
    }
    return tuple(name for name, holds in reasons.items() if holds)


def engine_sampling(
    request: GenerationRequest,
    folder: ModelFolder,
    installation: Installation,
    *,
    grammar: str | None,
    processor: object | None,
    batched: bool,
    drawn: bool,
) -> EngineSampling:
    """Parameters of one choice. Each choice is a request of its own to the engine.

    So it can be aborted alone, has a seed of its own, and greedy choices may be several (``SamplingParams._validate``
    refuses ``n > 1`` there). The prompt's KV cache is shared all the same, by block reuse.

    Args:
        request: checked before.
        folder: of the model.
        installation: whose class is used.
        grammar: for the engine's own guided decoding.
        processor: of this choice, on the PyTorch backend.
        batched: the batched processor looks after this choice.
        drawn: our sampler chooses its tokens.
    """
    sampling = request.sampling
    own = () if sampling.ignore_eos and request.grammar is None else folder.eos_token_ids
    if grammar is not None and folder.tokenizer_eos_id is not None:
        # The only end that the engine's llguidance knows, and the only token that it allows after a grammar's end.
        own = (folder.tokenizer_eos_id, *own)
    ends = tuple(dict.fromkeys((*own, *sampling.stop_token_ids)))
    greedy = drawn or sampling.temperature == 0
    cuts = 0 < sampling.top_k < folder.vocab_size
    fields: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "n": 1,
        # An end_id that no token has ends nothing, and with one given TensorRT-LLM asks no tokenizer for it.
        "end_id": ends[0] if ends else -1,
        "pad_id": folder.eos_token_ids[0],
        "stop_token_ids": list(ends[1 : 1 + _MOST_STOP_TOKENS]) or None,
        "temperature": 1.0 if greedy else sampling.temperature,
        # One candidate is how all of its samplers are greedy; None keeps all, but greedily where top_p is None too
        # (`SamplingParams._greedy_decoding`), which is why top_p is always given.
        "top_k": 1 if greedy else sampling.top_k if cuts else None,
        "top_p": 1.0 if greedy else sampling.top_p,
        # Without one, the C++ decoder draws the same numbers for all.
        "seed": random.getrandbits(63),
        "detokenize": False,
        "add_special_tokens": False,
        "logits_processor": processor,
        "apply_batched_logits_processor": batched,
        "guided_decoding": None if grammar is None else installation.guided_decoding_params(grammar=grammar),
    }
    return EngineSampling(ends, installation.sampling_params(**fields))
