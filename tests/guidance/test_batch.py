from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import InvalidGrammar
from guidance_core.generation import Grammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.constraint import Constraint
from guidance_core.guidance.batch import Commit, GuidanceBatch
from tests.grammar.random_grammars import random_constraint

MakeBatch = Callable[..., GuidanceBatch]
ORDER = {
    "type": "object",
    "properties": {"orderId": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "count": {"type": "integer"}},
    "required": ["orderId", "count"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@pytest.fixture
def make_batch(ll_tokenizer: LLTokenizer) -> Iterator[MakeBatch]:
    """Makes batches that are closed after the test."""
    batches: list[GuidanceBatch] = []

    def make(*, extra_logits: int = 0, max_rows: int = 8, **settings: object) -> GuidanceBatch:
        width = ll_tokenizer.vocab_size + extra_logits
        batch = GuidanceBatch(
            ll_tokenizer, vocab_size=width, max_rows=max_rows, settings=GuidanceSettings.model_validate(settings)
        )
        batches.append(batch)
        return batch

    yield make
    for batch in batches:
        batch.close()


@pytest.fixture
def grammar(ll_tokenizer: LLTokenizer) -> Callable[[Constraint], Grammar]:
    """Compiles a constraint."""
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    return lambda what: asyncio.run(compiler.compile(what)).grammar


def step(batch: GuidanceBatch, logits: torch.Tensor, ids: list[int]) -> tuple[list[int], dict[int, Commit]]:
    """One greedy step of sequences whose logits are in rows 0, 1, …"""
    batch.begin(list(enumerate(ids)))
    batch.apply(logits)
    sampled = logits[: len(ids)].argmax(-1).tolist()
    return sampled, batch.commit(list(zip(ids, sampled, strict=True)))


def test_sequences_of_different_grammars_each_end_in_their_own(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    batch = make_batch(extra_logits=5)
    texts: dict[int, list[int]] = {}
    for sequence_id, what in enumerate(
        [constraint.json_schema(ORDER), constraint.choice(["yes", "no"]), constraint.json_schema(ORDER)]
    ):
        batch.add(sequence_id, grammar(what))
        texts[sequence_id] = list(batch.start(sequence_id).forced)
    torch.manual_seed(0)
    running, ended = [0, 1, 2], {}
    for _ in range(200):
        sampled, commits = step(batch, torch.randn(len(running), ll_tokenizer.vocab_size + 5), running)
        for sequence_id, token in zip(list(running), sampled, strict=True):
            commit = commits[sequence_id]
            assert commit.error is None
            texts[sequence_id] += ([] if token == 0 else [token]) + list(commit.forced)
            if commit.stopped:
                assert commit.accepting
                ended[sequence_id] = ll_tokenizer.decode_str(texts[sequence_id])
                batch.remove(sequence_id)
                running.remove(sequence_id)
        if not running:
            break
    assert ended[1] in ("yes", "no")
    for sequence_id in (0, 2):
        order = json.loads(ended[sequence_id])
        assert isinstance(order["count"], int)
        assert 1 <= len(order["orderId"]) <= 4


def test_only_the_named_rows_are_masked(make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar]) -> None:
    batch = make_batch(extra_logits=40)
    batch.add(7, grammar(constraint.regex("[0-9]")))
    logits = torch.zeros(3, batch._vocab_size)
    batch.begin([(2, 7)])
    times = batch.apply(logits)
    assert logits[:2].isfinite().all()
    assert 10 <= logits[2].isfinite().sum() < 30
    assert not logits[2, -40:].isfinite().any()
    assert list(times) == [7]
    assert 0 <= times[7].wait_seconds <= times[7].mask_seconds < 1


def test_forced_tokens_are_the_models_own_tokenization(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    batch = make_batch()
    what = grammar(constraint.regex(r'\{"name": "Ada"(, "born": [0-9]{4})\}'))
    batch.add(0, what)
    forced = batch.start(0).forced
    text = ll_tokenizer.decode_str(list(forced))
    assert text.startswith('{"name": "Ada')
    assert list(forced) == ll_tokenizer.tokenize_str('{"name": "Ada", "born": 1815}')[: len(forced)]
    assert batch.start(0).forced == ()


NAMES = ["name", "names", "orderId", "orderName", "born", "price", "quick_brown_fox", "a", "ab", "the lazy dog", "é"]


@pytest.mark.parametrize("whitespace_flexible", [True, False])
def test_what_is_forced_after_the_tokenizers_own_tokens_is_the_tokenizers_own(
    make_batch: MakeBatch,
    grammar: Callable[[Constraint], Grammar],
    ll_tokenizer: LLTokenizer,
    whitespace_flexible: bool,
) -> None:
    """Whole documents are walked along the tokens that the tokenizer makes of them: forcing never leaves these."""
    draw = random.Random(5)
    batch = make_batch()
    forced_tokens = 0
    for number in range(60):
        values = {name: draw.choice([True, 7, "The fox", "A", None]) for name in draw.sample(NAMES, draw.randint(1, 5))}
        properties = {name: {"type": ["boolean", "integer", "string", "null"]} for name in values}
        for name in draw.sample(list(values), draw.randint(0, len(values))):
            properties[name] = {"const": values[name]}
        schema = {"type": "object", "properties": properties, "required": list(values), "additionalProperties": False}
        schema["x-guidance"] = {"whitespace_flexible": whitespace_flexible}
        separators = (", ", ": ") if whitespace_flexible else (",", ":")
        tokens = ll_tokenizer.tokenize_str(json.dumps(values, separators=separators, ensure_ascii=False))
        batch.add(number, grammar(constraint.json_schema(schema)))
        commit, at = batch.start(number), 0
        while True:
            assert list(commit.forced) == tokens[at : at + len(commit.forced)]
            forced_tokens += len(commit.forced)
            at += len(commit.forced)
            if at == len(tokens):
                break
            commit = batch.commit([(number, tokens[at])])[number]
            at += 1
            assert commit.error is None
        assert commit.accepting
        batch.remove(number)
    assert forced_tokens > 100


@pytest.mark.parametrize("first", ["T", "t", "n"])
def test_a_sampled_token_stays_where_the_tokenizer_would_have_joined_it_with_what_is_forced(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer, first: str
) -> None:
    batch = make_batch()
    batch.add(0, grammar(constraint.regex("[Ttn](he|ame)")))
    (letter,) = ll_tokenizer.tokenize_str(first)
    assert batch.commit([(0, letter)])[0].forced == ()
    batch.add(1, grammar(constraint.regex("[Ttn]ame brown fox")))
    forced = list(batch.commit([(1, letter)])[1].forced)
    joined = ll_tokenizer.tokenize_str(f"{first}ame brown fox")
    assert forced == (joined[1:] if joined[0] == letter else ll_tokenizer.tokenize_str("ame brown fox"))
    assert (joined[0] == letter) == (first != "n")


def test_an_answer_without_any_choice_is_forced_as_a_whole(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    batch = make_batch()
    batch.add(0, grammar(constraint.choice(["yes, the only option"])))
    start = batch.start(0)
    assert ll_tokenizer.decode_str(list(start.forced)) == "yes, the only option"
    assert start.stopped
    assert start.accepting


def test_forcing_can_be_switched_off_without_changing_the_answer(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    what = grammar(constraint.regex('"name": (yes|no) thanks'))
    answers = []
    for forced_tokens in (True, False):
        batch = make_batch(forced_tokens=forced_tokens)
        batch.add(0, what)
        tokens = list(batch.start(0).forced)
        assert bool(tokens) is forced_tokens
        generator = torch.Generator().manual_seed(3)
        commit = Commit()
        while not commit.stopped:
            (token,), commits = step(batch, torch.rand(1, batch._vocab_size, generator=generator), [0])
            commit = commits[0]
            tokens += [token, *commit.forced]
        answers.append(ll_tokenizer.decode_str(tokens))
    assert {answer.split()[0] for answer in answers} == {'"name":'}
    assert all(answer.endswith(" thanks") for answer in answers)


def test_an_end_token_ends_where_the_grammar_accepts(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    batch = make_batch()
    batch.add(0, grammar(constraint.regex("[0-9]+")))
    (digit,) = ll_tokenizer.tokenize_str("7")
    assert batch.commit([(0, digit)])[0] == Commit(accepting=True)
    assert batch.commit([(0, 0)])[0] == Commit(stopped=True, accepting=True)


def test_a_token_outside_the_grammar_fails_only_its_own_sequence(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    batch = make_batch()
    what = grammar(constraint.regex("[0-9]+"))
    for sequence_id in range(3):
        batch.add(sequence_id, what)
    (digit,), (letter,) = ll_tokenizer.tokenize_str("7"), ll_tokenizer.tokenize_str("q")
    commits = batch.commit([(0, digit), (1, letter), (2, digit)])
    assert commits[0] == commits[2] == Commit(accepting=True)
    assert commits[1].error
    assert not commits[1].stopped
    logits = torch.zeros(3, batch._vocab_size)
    batch.begin([(0, 0), (1, 1), (2, 2)])
    times = batch.apply(logits)
    assert times[1].error
    assert times[0].error is None
    assert times[2].error is None
    assert torch.equal(logits[0], logits[2])


def test_an_end_token_where_the_grammar_does_not_end_is_an_error(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar]
) -> None:
    batch = make_batch()
    batch.add(0, grammar(constraint.regex("[0-9]+")))
    assert batch.commit([(0, 0)])[0].error


def test_a_limit_that_is_hit_is_an_error_and_no_stop(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    what = grammar(constraint.lark('start: e\ne: e e | e e e | "a"'))
    batch = make_batch(max_items_in_row=50)
    batch.add(0, what)
    (letter,) = ll_tokenizer.tokenize_str("a")
    for _ in range(60):
        batch.begin([(0, 0)])
        error = batch.apply(torch.zeros(1, batch._vocab_size))[0].error
        commit = batch.commit([(0, letter)])[0]
        assert not commit.stopped
        if error or commit.error:
            break
    assert commit.error
    batch.add(1, grammar(constraint.regex("a")))
    assert batch.commit([(1, letter)])[1].stopped


@pytest.mark.parametrize(
    ("masks_ahead", "torch_threads", "ahead"),
    [("always", 2, True), ("never", 1, False), ("auto", 1, True), ("auto", 2, False), ("auto", 3, False)],
)
def test_masks_are_filled_behind_the_forward_pass_where_it_leaves_a_core_idle(
    make_batch: MakeBatch,
    grammar: Callable[[Constraint], Grammar],
    monkeypatch: pytest.MonkeyPatch,
    masks_ahead: str,
    torch_threads: int,
    ahead: bool,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {4, 7}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_threads)
    batch = make_batch(masks_ahead=masks_ahead)
    batch.add(0, grammar(constraint.regex("[a-z]")))
    batch.add(1, grammar(constraint.regex("[0-9]")))
    batch.begin([(0, 0), (1, 1)])
    deadline = time.monotonic() + 10
    while ahead and not batch._words[:2].any(axis=1).all():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert batch._words.any() == ahead
    batch.wait()


@pytest.mark.parametrize(
    ("settings", "threads"),
    [({}, 1), ({"masks_ahead": "never"}, 4), ({"masks_ahead": "always", "threads": 2}, 2)],
    ids=str,
)
def test_masks_take_no_core_from_the_forward_pass(
    make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], threads: int
) -> None:
    started: list[int] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("guidance_core.guidance.batch.LLExecutor", lambda num_threads: started.append(num_threads))
    make_batch(**settings)
    assert started == [threads]


def test_masks_that_nobody_applied_do_not_disturb_the_next_step(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer
) -> None:
    batch = make_batch()
    batch.add(0, grammar(constraint.regex("[0-9]")))
    batch.add(1, grammar(constraint.regex("[a-z]")))
    batch.begin([(0, 0), (1, 1)])
    batch.remove(0)
    (letter,) = ll_tokenizer.tokenize_str("q")
    assert batch.commit([(1, letter)])[1].stopped
    batch.begin([])
    assert batch.apply(torch.zeros(1, batch._vocab_size)) == {}


def test_grammars_compile_behind_the_running_batch(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar]
) -> None:
    batch = make_batch()
    properties = {f"property-{i}": {"type": "string"} for i in range(1500)}
    slow = grammar(constraint.json_schema({"type": "object", "properties": properties}))
    start = time.perf_counter()
    assert not batch.prepare(slow)
    assert time.perf_counter() - start < 0.05
    while not batch.prepare(slow):
        time.sleep(0.001)
    start = time.perf_counter()
    batch.add(0, slow)
    assert time.perf_counter() - start < 0.05


def test_a_grammar_that_llguidance_refuses_is_an_invalid_grammar(make_batch: MakeBatch) -> None:
    with pytest.raises(InvalidGrammar, match="nowhere"):
        make_batch().add(0, Grammar("start: nowhere", "lark", "start: nowhere", "key"))


@pytest.mark.parametrize("cache_size", [0, 1, 4])
def test_kept_grammars_are_bounded_and_copies_are_independent(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar], ll_tokenizer: LLTokenizer, cache_size: int
) -> None:
    batch = make_batch(cache_size=cache_size)
    for sequence_id, letter in enumerate("abcdefabcdef"):
        batch.add(sequence_id, grammar(constraint.regex(letter + "[a-z]")))
    assert len(batch.prototypes) <= max(1, cache_size)
    (a,) = ll_tokenizer.tokenize_str("a")
    assert not batch.commit([(0, a)])[0].error
    assert batch.commit([(6, a)])[6].error is None
    assert batch.commit([(0, a)])[0].stopped


def test_a_lexer_is_renewed_before_long_use_fills_it(
    make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar]
) -> None:
    batch = make_batch()
    what = grammar(constraint.regex("a+"))
    prototypes = set()
    for sequence_id in range(600):
        batch.add(sequence_id, what)
        prototypes.add(id(batch.prototypes.get(what)))
        batch.remove(sequence_id)
    assert len(prototypes) >= 2


def test_no_thread_is_left_after_closing(make_batch: MakeBatch, grammar: Callable[[Constraint], Grammar]) -> None:
    before = set(threading.enumerate())
    batch = make_batch()
    batch.add(0, grammar(constraint.regex("a")))
    batch.begin([(0, 0)])
    batch.close()
    left = {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("guidance")}
    assert not left


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_token_that_is_asked_for_is_allowed_where_the_mask_allows_it(seed: int, ll_tokenizer: LLTokenizer) -> None:
    draw = random.Random(seed)
    judged = random_constraint(draw)
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    ahead = draw.choice(["always", "never"])
    guidance = GuidanceSettings(threads=1, forced_tokens=draw.random() < 0.5, masks_ahead=ahead)
    grammar = asyncio.run(compiler.compile(judged.constraint)).grammar
    compiler.close()
    size = ll_tokenizer.vocab_size
    batch = GuidanceBatch(ll_tokenizer, vocab_size=size + 9, max_rows=1, settings=guidance)
    batch.add(1, grammar)
    commit = batch.start(1)
    for _ in range(25):
        if commit.stopped:
            break
        batch.begin([(0, 1)])
        asked = [token for token in range(size + 9) if batch.allows([token])[0]]
        logits = torch.zeros(1, size + 9)
        assert batch.masses(logits, [0], [0]) == pytest.approx([len(asked) / (size + 9)])
        batch.mask(logits, [0], [0])
        assert asked == torch.nonzero(logits[0] == 0)[:, 0].tolist()
        commit = batch.commit([(1, draw.choice(asked))])[1]
        if not commit.error and draw.random() < 0.1 and commit.accepting:
            break
    batch.close()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_batch_of_any_sequences_does_what_a_matcher_each_would(seed: int, ll_tokenizer: LLTokenizer) -> None:
    draw = random.Random(seed)
    guidance = GuidanceSettings(
        threads=2,
        forced_tokens=draw.random() < 0.5,
        masks_ahead=draw.choice(["always", "never"]),
        cache_size=draw.choice([1, 8]),
    )
    most = draw.choice([3, 3, 3, 70])  # matchers move on in parallel from 64 on, masks are filled so from 16 on
    size = ll_tokenizer.vocab_size + draw.choice([0, 9])
    compiler = GrammarCompiler(ll_tokenizer, guidance)
    grammars = [asyncio.run(compiler.compile(random_constraint(draw).constraint)).grammar for _ in range(2)]
    grammars.append(asyncio.run(compiler.compile(constraint.lark(COUNTED))).grammar)
    compiler.close()
    batch = GuidanceBatch(ll_tokenizer, vocab_size=size, max_rows=most, settings=guidance)
    alone: dict[int, LLMatcher] = {}
    fresh = itertools.count()
    for _ in range(12):
        while len(alone) < most and draw.random() < 0.95:
            one, grammar = next(fresh), draw.choice(grammars)
            batch.add(one, grammar)
            alone[one] = LLMatcher(ll_tokenizer, grammar.source, log_level=0)
            where = batch.start(one)
            assert where == standing(alone[one], guidance, size)
            if where.stopped:
                batch.remove(one)
                del alone[one]
        running = draw.sample(list(alone), draw.choice([len(alone), len(alone), len(alone) // 2]))
        batch.begin(list(enumerate(running)))
        if draw.random() < 0.1:
            continue  # nobody asked for the masks
        masks = {one: allowed(alone[one], size) for one in running}
        asked = [draw.choice([0, draw.randrange(size), *masks[one][:1]]) for one in running]
        if draw.random() < 0.5:
            assert batch.allows(asked) == [token in masks[one] for one, token in zip(running, asked, strict=True)]
        chosen = sorted(draw.sample(range(len(running)), draw.randint(min(1, len(running)), len(running))))
        logits = torch.zeros(most, size)
        batch.mask(logits, chosen, chosen)
        for index, one in enumerate(running):
            assert (logits[index] == 0).nonzero()[:, 0].tolist() == (masks[one] if index in chosen else [*range(size)])
        batch.wait()
        # Now and then a token that is not allowed: it fails its own sequence.
        sampled = [(one, draw.choice(masks[one] if draw.random() < 0.97 else range(1, size))) for one in running]
        commits = batch.commit(draw.sample(sampled, len(sampled)))
        for one, token in sampled:
            assert alone[one].consume_token(token) == (commits[one].error is None)
            assert commits[one].error or commits[one] == standing(alone[one], guidance, size, ended=token == 0)
            if commits[one].stopped or commits[one].error or draw.random() < 0.05:
                batch.remove(one)
                del alone[one]
    batch.close()


COUNTED = 'start: word " " word <|user|>? "."\nword[max_tokens=3]: /[a-z ]*/'


def allowed(matcher: LLMatcher, size: int) -> list[int]:
    """What a matcher by itself allows of a model's vocabulary."""
    mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return [token for token in np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist() if token < size]


def standing(matcher: LLMatcher, guidance: GuidanceSettings, size: int, *, ended: bool = False) -> Commit:
    """Where a matcher by itself stands; it takes what its grammar forces."""
    forced = [] if ended or not guidance.forced_tokens or matcher.is_stopped() else matcher.compute_ff_tokens()
    usable = list(itertools.takewhile(lambda token: token and token < size, forced))
    taken = matcher.try_consume_tokens(usable)
    return Commit(tuple(usable[:taken]), matcher.is_stopped(), matcher.is_accepting())
