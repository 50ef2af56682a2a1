"""``tensorrt_llm/_torch/pyexecutor/grammar_matcher.py``: TensorRT-LLM's own use of llguidance."""

from __future__ import annotations

from pathlib import Path

import llguidance
import llguidance.numpy
import numpy as np
import torch
from transformers import AutoTokenizer

from tensorrt_llm.sampling_params import GuidedDecodingParams


class LLGuidanceMatcherFactory:
    """Makes matchers, with the tokenizer's end token as the only one and llguidance's default limits."""

    def __init__(self, model: Path, vocab_size: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        if tokenizer.eos_token_id is None:
            # `_xgrammar_tokenizer_info` in ``llmapi/tokenizer.py`` makes ``stop_token_ids=[None]`` of it.
            raise TypeError("GuidedDecodingConfig: incompatible constructor arguments: stop_token_ids=[None]")
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer.backend_tokenizer.to_str(), n_vocab=vocab_size, eos_token=tokenizer.eos_token_id
        )
        self._eos = tokenizer.eos_token_id

    def create(self, params: GuidedDecodingParams) -> LLGuidanceMatcher:
        """A matcher of a request's guide.

        Raises:
            ValueError: llguidance does not take it; nobody catches this but the executor's loop.
        """
        if params.json_object:
            grammar = llguidance.LLMatcher.grammar_from_json_schema('{"type": "object"}')
        elif params.json is not None:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(params.json)
        elif params.regex is not None:
            grammar = llguidance.LLMatcher.grammar_from_regex(params.regex)
        elif params.grammar is not None:
            grammar = llguidance.LLMatcher.grammar_from_lark(params.grammar)
        else:
            raise ValueError("Unsupported guide type.")
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise ValueError(f"LLGuidance matcher error: {matcher.get_error()}")
        return LLGuidanceMatcher(matcher, self._eos)


class LLGuidanceMatcher:
    """Where one request stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, eos_token: int) -> None:
        self._matcher = matcher
        self._eos = eos_token
        self.is_terminated = False

    def accept_token(self, token_id: int) -> bool:
        """Take a token; after the grammar's end only the end token."""
        if self._matcher.is_stopped():
            self.is_terminated = token_id == self._eos
            return self.is_terminated
        accepted = bool(self._matcher.try_consume_tokens([token_id]))
        self._check()
        return accepted

    def apply(self, logits: torch.Tensor) -> None:
        """Mask a row, in place."""
        bitmask = llguidance.numpy.allocate_token_bitmask(1, logits.shape[0])
        llguidance.numpy.fill_next_token_bitmask(self._matcher, bitmask, 0)
        self._check()
        allowed = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: logits.shape[0]]
        logits[torch.from_numpy(allowed == 0)] = -torch.inf

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"LLGuidance matcher error: {self._matcher.get_error()}")
