"""An answer that ends with ``stop`` satisfies its constraint, whatever else the batch goes through.

Random constraints are answered by a model that knows nothing, while requests join, leave, and share steps; judges that
have nothing to do with llguidance (`jsonschema`, `re`, `lark`) read the answers as a client would.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLTokenizer
from tokenizers import Tokenizer

from guidance_core.config import GuidanceSettings, TorchSettings
from guidance_core.errors import RequestError
from guidance_core.executors.torch.engine import Engine
from guidance_core.generation import GenerationRequest, Grammar, SamplingParams
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.guidance.batch import GuidanceBatch
from guidance_core.output import ChoiceOutput, Detokenizer, StopStrings
from tests.executors.torch.fakes import FakeRunner
from tests.grammar.random_grammars import Judged, random_constraint

CLOSING = frozenset('}],:"')


class Babbler(FakeRunner):
    """Answers at random, and likes to come to an end more and more."""

    def __init__(self, tokenizer: LLTokenizer, **sizes: int) -> None:
        super().__init__(vocab_size=tokenizer.vocab_size, **sizes)
        texts = [tokenizer.decode_str([token]) for token in range(tokenizer.vocab_size)]
        self._closes = torch.tensor([bool(text) and set(text) <= CLOSING for text in texts]).float()
        self._closes[0] = 1.5  # the end token

    def logits(self, tokens: list[int]) -> torch.Tensor:  # type: ignore[override]
        return super().logits(tokens) + self._closes * min(6, 0.05 * len(tokens))


@dataclass
class Asked:
    """A request of a scenario and what came of it."""

    judged: Judged
    request: GenerationRequest
    outputs: list[ChoiceOutput]
    arrival: int
    abort: int | None
    refused: bool = False

    def check(self, failure: RequestError) -> None:
        """Fail where nothing that was asked explains it: an ending that cannot fit, or that all was forbidden."""
        if "No token is left" in failure.message:
            assert self.request.sampling.logit_bias, failure
        else:
            assert self.request.complete, failure
            assert failure.param in ("fit_to_max_tokens", "max_tokens", "stop_token_ids"), failure

    def is_over(self) -> bool:
        return self.refused or all(output.finish_reason is not None for output in self.outputs)


class Scenario:
    """Requests that come and go at random, from a seed."""

    def __init__(self, seed: int, tokenizer: LLTokenizer, compiler: GrammarCompiler, detokenizer: Detokenizer) -> None:
        draw = random.Random(seed)
        self._compiler = compiler
        guidance = GuidanceSettings(threads=draw.choice([1, 2]), forced_tokens=draw.random() < 0.7)
        self._batch = GuidanceBatch(tokenizer, vocab_size=tokenizer.vocab_size, max_rows=4, settings=guidance)
        chunks = TorchSettings(max_num_tokens=draw.choice([16, 32, 256]), prefix_cache=draw.random() < 0.5)
        self._engine = Engine(Babbler(tokenizer, num_slots=4, max_model_len=512), self._batch, chunks)
        self.asked: dict[int, Asked] = {}
        for key in range(draw.randint(3, 8)):
            judged = random_constraint(draw)
            grammar = asyncio.run(compiler.compile(judged.constraint)).grammar
            self.asked[key] = self._ask(draw, key, judged, grammar, detokenizer)

    def run(self) -> None:
        """Step until everything has ended; fails where an answer breaks its constraint."""
        step = 0
        while self._engine.runnable or self._engine.compiling or any(a.arrival >= step for a in self.asked.values()):
            for key, asked in self.asked.items():
                if asked.arrival == step:
                    self._engine.submit(key, asked.request)
                if asked.abort is not None and step == asked.arrival + asked.abort:
                    self._engine.abort(key)
            stepped = self._engine.step()
            for key, failure in stepped.failures:
                self.asked[key].check(failure)
                self.asked[key].refused = True
            for key, delta in stepped.deltas:
                asked = self.asked[key]
                output = asked.outputs[delta.index]
                if output.finish_reason is not None:
                    continue
                output.push(delta)
                if output.stop_string is not None:
                    self._engine.finish_choice(key, delta.index)
                    assert asked.request.grammar is not None
                    complete = self._compiler.accepts(asked.request.grammar, output.text.encode())
                    output.end_at_stop_string(complete=complete)
                if asked.request.complete and output.stop_string is None:
                    assert output.finish_reason != "length", asked.judged.constraint
                if output.finish_reason == "stop":
                    assert asked.judged.satisfied_by(output.text), (asked.judged.constraint, output.text)
            step += 1
        self._batch.close()

    def _ask(self, draw: random.Random, key: int, judged: Judged, grammar: Grammar, detokenizer: Detokenizer) -> Asked:
        stop = tuple(draw.sample(["}", "x", "a", "1", '",'], draw.choice([0, 0, 0, 1])))
        request = GenerationRequest(
            request_id=str(key),
            prompt_ids=tuple(draw.choices(range(1, 300), k=draw.choice([1, 7, 60]))),
            sampling=SamplingParams(
                max_tokens=draw.choice([3, 12, 60, 120, 120]),
                n=draw.choice([1, 1, 2, 3]),
                temperature=draw.choice([0, 0.7, 1.5]),
                top_p=draw.choice([1, 0.9]),
                logprobs=draw.choice([None, None, 0, 2]),
                frequency_penalty=draw.choice([0, 0, 0.5]),
                min_tokens=draw.choice([0, 0, 0, 3]),
                ignore_eos=draw.random() < 0.1,
                bad_token_ids=tuple((token,) for token in draw.sample(range(2, 300), draw.choice([0] * 5 + [60]))),
                stop_token_ids=tuple(draw.sample(range(2, 300), draw.choice([0] * 5 + [5]))),
                logit_bias=dict.fromkeys(draw.sample(range(300), draw.choice([0] * 9 + [200])), -math.inf),
                seed=draw.getrandbits(32),
            ),
            grammar=grammar,
            stop=stop,
            complete=draw.random() < 0.3,
            measure_mass=draw.random() < 0.5,
        )
        outputs = [
            ChoiceOutput(detokenizer, stop=StopStrings(stop) if stop else None, under_grammar=True)
            for _ in range(request.sampling.n)
        ]
        abort = draw.randint(1, 40) if draw.random() < 0.15 else None
        return Asked(judged, request, outputs, draw.randint(0, 20), abort)


@pytest.fixture(scope="module")
def detokenizer(tokenizer_folder: Path) -> Detokenizer:
    return Detokenizer(Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json")))


@pytest.fixture(scope="module")
def compiler(ll_tokenizer: LLTokenizer) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    yield compiler
    compiler.close()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_ends_with_stop_satisfies_its_constraint(
    seed: int, ll_tokenizer: LLTokenizer, compiler: GrammarCompiler, detokenizer: Detokenizer
) -> None:
    scenario = Scenario(seed, ll_tokenizer, compiler, detokenizer)
    scenario.run()
    for asked in scenario.asked.values():
        assert asked.abort is not None or asked.is_over()


def test_most_of_these_answers_come_to_an_end(
    ll_tokenizer: LLTokenizer, compiler: GrammarCompiler, detokenizer: Detokenizer
) -> None:
    reasons: Counter[str | None] = Counter()
    kinds: Counter[str] = Counter()
    for seed in range(6):
        scenario = Scenario(seed, ll_tokenizer, compiler, detokenizer)
        scenario.run()
        for asked in scenario.asked.values():
            kinds[asked.judged.constraint.kind] += 1
            reasons.update(output.finish_reason for output in asked.outputs)
    assert reasons["stop"] > 0.5 * reasons.total()
    assert set(kinds) == {"json_schema", "regex", "choice", "lark"}
