from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import ExecutorUnavailable, InvalidGrammar, QueueFull
from guidance_core.grammar import constraint, trial
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.constraint import Constraint
from guidance_core.grammar.json_schema import Translation
from guidance_core.grammar.reasoning import Thoughts
from guidance_core.grammar.tools import Function
from guidance_core.tool_format import HERMES

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


async def test_a_grammar_says_what_it_came_from(compiler: GrammarCompiler) -> None:
    grammar = (await compiler.compile(constraint.json_schema(SCHEMA))).grammar
    assert grammar.kind == "json_schema"
    assert json.loads(grammar.definition) == SCHEMA
    assert compiler.accepts(grammar, b'{"a": 1}')
    assert not compiler.accepts(grammar, b'{"a": "1"}')
    assert not compiler.accepts(grammar, b'{"a": 1')


async def test_equal_constraints_compile_once_even_at_the_same_time(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Constraint] = []
    original = Constraint.translations
    monkeypatch.setattr(Constraint, "translations", lambda self, _: (calls.append(self), original(self))[1])
    compilations = await asyncio.gather(*(compiler.compile(constraint.json_schema(SCHEMA)) for _ in range(8)))
    assert len(calls) == 1
    assert len({id(compilation.grammar) for compilation in compilations}) == 1
    assert [compilation.cached for compilation in compilations] == [False] + [True] * 7
    assert all(compilation.seconds > 0 for compilation in compilations)


@pytest.mark.parametrize("wrapped", [lambda c: c, lambda c: constraint.reasoned(Thoughts(None, 5, (), 0, None), c)])
async def test_gbnf_is_translated_once(
    compiler: GrammarCompiler,
    monkeypatch: pytest.MonkeyPatch,
    wrapped: Callable[[Constraint], Constraint],
) -> None:
    calls: list[str] = []
    original = constraint.lark_from_gbnf
    monkeypatch.setattr(constraint, "lark_from_gbnf", lambda text: (calls.append(text), original(text))[1])
    grammar = (await compiler.compile(wrapped(constraint.ebnf('root ::= "a" | "b"')))).grammar
    assert grammar.source
    assert len(calls) == 1


async def test_the_cache_is_bounded_and_forgets_the_oldest(
    ll_tokenizer: LLTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    original = Constraint.translations
    monkeypatch.setattr(Constraint, "translations", lambda self, _: (calls.append(self.definition), original(self))[1])
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings(cache_size=2))
    for pattern in ("a", "b", "a", "c", "a", "b"):
        await compiler.compile(constraint.regex(pattern))
    assert calls == ["a", "b", "c", "b"]


async def test_a_cancelled_client_does_not_cancel_the_next(compiler: GrammarCompiler) -> None:
    first = asyncio.create_task(compiler.compile(constraint.json_schema(SCHEMA)))
    await asyncio.sleep(0)
    first.cancel()
    grammar = (await compiler.compile(constraint.json_schema(SCHEMA))).grammar
    assert compiler.accepts(grammar, b'{"a": 1}')


class Held:
    """Definitions as they come to be compiled; those with the word "held" in them stay there until `release`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._count = threading.Semaphore(0)
        self._released = threading.Event()

    def pass_through(self, definition: str) -> None:
        self.begun.append(definition)
        self._count.release()
        if "held" in definition:
            self._released.wait(10)

    def release(self) -> None:
        self._released.set()

    async def have_begun(self, count: int) -> None:
        for _ in range(count):
            await asyncio.to_thread(self._count.acquire, timeout=10)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held, original = Held(), Constraint.translations
    monkeypatch.setattr(
        Constraint, "translations", lambda self, _: (held.pass_through(self.definition), original(self))[1]
    )
    yield held
    held.release()


async def test_short_grammars_wait_neither_for_long_ones_nor_for_those_that_are_tried(
    compiler: GrammarCompiler, held: Held
) -> None:
    slow = [constraint.regex(f"held{number}" + "x" * 70_000) for number in range(2)]
    slow += [constraint.lark(f'start: "held{number}"') for number in range(3)]
    waiting = [asyncio.create_task(compiler.compile(one)) for one in slow]
    await held.have_begun(3)
    assert (await asyncio.wait_for(compiler.compile(constraint.regex("short")), 5)).grammar.kind == "regex"
    held.release()
    assert len(await asyncio.gather(*waiting)) == 5


async def test_what_nobody_waits_for_any_more_before_its_turn_is_not_compiled(
    compiler: GrammarCompiler, held: Held
) -> None:
    busy, left, kept = [
        [asyncio.create_task(compiler.compile(constraint.regex(pattern))) for pattern in patterns]
        for patterns in (["held1", "held2"], ["left"], ["kept", "kept"])
    ]
    await held.have_begun(2)
    left[0].cancel()
    kept[0].cancel()
    await asyncio.gather(left[0], kept[0], return_exceptions=True)
    held.release()
    await asyncio.gather(*busy, kept[1])
    assert sorted(held.begun) == ["held1", "held2", "kept"]
    assert not (await compiler.compile(constraint.regex("left"))).cached


async def test_no_more_requests_than_allowed_wait_for_grammars(ll_tokenizer: LLTokenizer, held: Held) -> None:
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings(), max_waiting=3)
    waiting = [asyncio.create_task(compiler.compile(constraint.regex(f"held{number}"))) for number in range(3)]
    await held.have_begun(2)
    with pytest.raises(QueueFull, match="3 requests wait") as refusal:
        await compiler.compile(constraint.regex("a"))
    assert refusal.value.retry_after == 1
    held.release()
    await asyncio.gather(*waiting)
    assert await compiler.compile(constraint.regex("a"))


async def test_who_waits_for_a_thread_when_the_service_ends_is_told_so(
    ll_tokenizer: LLTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_compile, compiling, original = threading.Event(), threading.Semaphore(0), Constraint.translations

    def translate_later(self: Constraint, _: str | None) -> Iterator[Translation]:
        compiling.release()
        may_compile.wait(10)
        return original(self)

    monkeypatch.setattr(Constraint, "translations", translate_later)
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    tasks = [asyncio.create_task(compiler.compile(constraint.regex(pattern))) for pattern in "abc"]
    for _ in range(2):
        await asyncio.to_thread(compiling.acquire)
    compiler.close()
    with pytest.raises(ExecutorUnavailable, match="shutting down"):
        await tasks[2]
    may_compile.set()
    assert len(await asyncio.gather(*tasks[:2])) == 2


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (constraint.regex("(?=a)"), "look-ahead"),
        (constraint.regex("["), "regex parse error"),
        (constraint.lark("start: nowhere"), "nowhere"),
        (constraint.lark('start: "a" <|nope|>'), "nope"),
        (constraint.json_schema({"$ref": "https://example.com/a.json"}), "https://example.com/a.json"),
        (constraint.json_schema({"type": "integer", "minimum": 3, "maximum": 2}), "Unsatisfiable"),
        (constraint.json_schema({"properties": {"a": False}, "required": ["a"], "type": "object"}), "Unsatisfiable"),
        (constraint.llguidance({"grammars": [{"json_schema": {"x-guidance": {"lenient": True}, "not": {}}}]}), "not"),
    ],
)
async def test_refusals_carry_llguidances_words_and_the_field(
    compiler: GrammarCompiler, what: Constraint, named: str
) -> None:
    for param in ("response_format", "guided_json"):
        with pytest.raises(InvalidGrammar, match=re.escape(named)) as refusal:
            await compiler.compile(what, param=param)
        assert refusal.value.param == param
        assert refusal.value.status == 400


async def test_long_grammars_are_refused(ll_tokenizer: LLTokenizer) -> None:
    compiler = GrammarCompiler(ll_tokenizer, GuidanceSettings(max_grammar_bytes=20))
    with pytest.raises(InvalidGrammar, match="longer than 20 bytes"):
        await compiler.compile(constraint.regex("a" * 21))


def chain(rules: int) -> str:
    return "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(rules)) + f'\nr{rules}: "a"'


HOSTILE: dict[str, Any] = {
    "a chain of rules": constraint.lark(chain(20_000)),
    "a chain of references": constraint.json_schema(
        {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(5000)} | {"5000": {}}}
    ),
    "a large enum": constraint.json_schema({"enum": [f"value-{i}" for i in range(10_000)]}),
    "a large repetition": constraint.regex("(a{0,1000}){0,100000}"),
    "an exponential regex": constraint.json_schema(
        {"type": "string", "pattern": "^(a|b)*a(a|b){25}$", "minLength": 40}
    ),
    "an exponential allOf": constraint.json_schema(
        {"allOf": [{"anyOf": [{"properties": {f"k{i}": {"const": j}}} for j in (1, 2)]} for i in range(20)]}
    ),
    "doubling terminals": constraint.lark(
        "start: T0\n" + "\n".join(f"T{i}: T{i + 1} T{i + 1}" for i in range(30)) + '\nT30: "a"'
    ),
    "nested conditions": constraint.json_schema(
        reduce(lambda inner, _: {"if": inner, "then": {"minLength": 1}, "else": {"maxLength": 5}}, range(40), {})
    ),
    "nested choices": constraint.json_schema(
        reduce(lambda inner, n: {"oneOf": [inner, {"required": [str(n)]}]}, range(40), {"required": ["a"]})
    ),
    "references that fan out": constraint.json_schema(
        {
            "not": {"$ref": "#/$defs/0"},
            "$defs": {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 20} for i in range(10)} | {"10": {}},
        }
    ),
    "many dependencies": constraint.json_schema({"dependentRequired": {f"k{i}": [f"k{i + 1}"] for i in range(200)}}),
    "many items": constraint.json_schema({"type": "array", "minItems": 2**31 - 1}),
    "nested groups": constraint.regex("(" * 5000 + ")" * 5000),
}


async def test_a_grammar_that_crashes_llguidance_is_refused_and_nothing_else_happens(compiler: GrammarCompiler) -> None:
    for schema in ('{"const": -9223372036854775808}', '{"type": "integer", "minimum": -1e300, "maximum": -1e300}'):
        with pytest.raises(InvalidGrammar, match=re.escape("crash") + "|Failed to generate"):
            await compiler.compile(constraint.lark(f"start: %json {schema}"))
    with pytest.raises(InvalidGrammar, match="makes llguidance crash"):
        await compiler.compile(constraint.llguidance({"grammars": [{"json_schema": {"const": -(2**63)}}]}))
    assert await compiler.compile(constraint.lark('start: "a"'))


async def test_a_grammar_that_crashes_llguidance_is_refused_beside_functions_and_after_thoughts_too(
    compiler: GrammarCompiler,
) -> None:
    crash = constraint.lark('start: %json {"const": -9223372036854775808}')
    function = Function("f", {"type": "object"})
    call = constraint.tools(HERMES, [function], required=False, parallel=False, answer=crash, token_ids={})
    thoughts = Thoughts(begin_id=None, end_id=5, excluded_ids=(), min_tokens=0, max_tokens=None)
    for hidden in (call, constraint.reasoned(thoughts, crash), constraint.reasoned(thoughts, call)):
        with pytest.raises(InvalidGrammar, match="makes llguidance crash"):
            await compiler.compile(hidden)


async def test_a_grammar_under_which_no_text_can_begin_is_refused(compiler: GrammarCompiler) -> None:
    for grammar in ("start: x\nx: x", 'start: "" x\nx: x "a"'):
        with pytest.raises(InvalidGrammar, match="none that llguidance can begin"):
            await compiler.compile(constraint.lark(grammar))
    assert await compiler.compile(constraint.lark('start: ""'))


@pytest.mark.parametrize("grammar", ["_" * 100_000, "start: x\n" * 10_000])
async def test_a_refusal_quotes_no_more_of_a_grammar_than_can_be_read(compiler: GrammarCompiler, grammar: str) -> None:
    with pytest.raises(InvalidGrammar) as refusal:
        await compiler.compile(constraint.lark(grammar))
    assert len(refusal.value.message) < 7_000
    assert "llguidance refuses the grammar" in refusal.value.message


def test_a_grammar_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_SECONDS", 0.001)
    assert trial.crashes('start: "a"') == "takes longer than 0.001 s to compile"


@pytest.mark.parametrize(
    "wrap", [constraint.regex, lambda pattern: constraint.json_schema({"type": "string", "pattern": f"^{pattern}$"})]
)
async def test_long_patterns_are_tried_in_a_process_of_their_own_first(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[str], Constraint]
) -> None:
    assert await compiler.compile(wrap("a" * 5_000))
    monkeypatch.setattr(trial, "_SECONDS", 1)
    with pytest.raises(InvalidGrammar, match="takes longer than 1 s"):
        await compiler.compile(wrap("/*" * 30_000))
    monkeypatch.setattr(trial, "_SECONDS", 0)
    assert await compiler.compile(wrap("a" * 3_000))  # it is not tried


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("a" * 4001, True),
        ('{"a": "' + '\\"' * 4001 + 'b"}', False),
        ('{"a": "' + 'b*\\"' * 3000 + '"}', True),
        ("", False),
    ],
)
def test_long_patterns_are_found_wherever_they_are(definition: str, expected: bool) -> None:
    assert trial.has_long_pattern(definition) is expected


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_grammars_neither_hang_nor_crash_the_service(compiler: GrammarCompiler, name: str) -> None:
    start, longest = time.perf_counter(), 0.0
    compiling = asyncio.create_task(compiler.compile(HOSTILE[name]))
    while not compiling.done():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - before)
    assert compiling.exception() is None or isinstance(compiling.exception(), InvalidGrammar)
    total = time.perf_counter() - start
    assert total < 60, "a grammar must not hold a thread for ever"
    assert longest < 0.8 * total or total < 1, "the event loop goes on meanwhile"


async def test_the_model_that_is_served_compiles_too(model_path: Path) -> None:
    from guidance_core.grammar.tokenizer import load_ll_tokenizer

    compiler = GrammarCompiler(load_ll_tokenizer(model_path, 49152, [2]), GuidanceSettings())
    grammar = (await compiler.compile(constraint.json_schema(SCHEMA))).grammar
    assert compiler.accepts(grammar, b'{"a": 12}')
