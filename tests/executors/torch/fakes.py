"""A model that can be seen through, and words to ask it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from guidance_core.executors.torch.segment import Segment
from guidance_core.executors.torch.sequence import Sequence as Choice
from guidance_core.generation import GenerationRequest, Grammar, SamplingParams


def request(
    prompt: Sequence[int] = (5, 6, 7), *, grammar: Grammar | None = None, **sampling: object
) -> GenerationRequest:
    """A request, greedy and of 8 tokens unless told otherwise."""
    params = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return GenerationRequest(request_id="r", prompt_ids=tuple(prompt), sampling=params, grammar=grammar)


def choice(prompt: Sequence[int] = (5, 6, 7), *, key: int = 0, index: int = 0, **sampling: object) -> Choice:
    """A choice of such a request."""
    asked = request(prompt, **sampling)
    seed = asked.sampling.seed if asked.sampling.seed is not None else 0
    return Choice(key * 100 + index, key, index, asked, eos_token_ids=(0,), seed=seed)


class FakeRunner:
    """Logits that are a function of all tokens that a slot holds: a wrong cache gives wrong answers.

    Attributes:
        batches: the segments of each forward pass.
        trouble: called with each segment and its logits before they are given out; may raise or change them.
    """

    def __init__(self, vocab_size: int = 64, num_slots: int = 4, max_model_len: int = 256) -> None:
        self.vocab_size = vocab_size
        self.num_slots = num_slots
        self.max_model_len = max_model_len
        self.eos_token_ids = (0,)
        self.whole_images = False
        self.batches: list[list[Segment]] = []
        self.cleared: list[tuple[int, int]] = []
        self.trouble: Callable[[Segment, torch.Tensor], None] | None = None
        self._held: list[dict[int, int]] = [{} for _ in range(num_slots)]

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """What follows on these tokens: float32 [vocab_size]."""
        generator = torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31)
        return torch.randn(self.vocab_size, generator=generator) * 2

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The answer of ``count`` tokens, or up to the end token."""
        tokens = list(prompt)
        for _ in range(count):
            token = int(self.logits(tokens).argmax())
            if token in self.eos_token_ids:
                break
            tokens.append(token)
        return tokens[len(prompt) :]

    def forward(self, segments: Sequence[Segment], *, before_logits: Callable[[], None] | None = None) -> torch.Tensor:
        assert len({segment.slot for segment in segments}) == len(segments)
        self.batches.append(list(segments))
        if before_logits is not None:
            before_logits()
        rows = []
        for segment in segments:
            held = self._held[segment.slot]
            for position, token in enumerate(segment.token_ids, segment.start):
                held[position] = token
                tokens = [held[i] for i in range(position + 1)]  # KeyError: positions that were never written
                last = position == segment.start + len(segment.token_ids) - 1
                if segment.logits == "all" or (segment.logits == "last" and last):
                    row = self.logits(tokens)
                    if self.trouble is not None:
                        self.trouble(segment, row)
                    rows.append(row)
        return torch.stack(rows) if rows else torch.zeros(0, self.vocab_size)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._held[target] = {i: self._held[source][i] for i in range(length)}

    def clear(self, slot: int, length: int) -> None:
        self.cleared.append((slot, length))
