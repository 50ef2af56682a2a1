"""Text-level models and the LLM API's, on a real Triton server with the default model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from llguidance import LLTokenizer
from tokenizers import Tokenizer

from guidance_core.api.answer import Answer
from guidance_core.api.served_model import load_model
from guidance_core.config import GuidanceSettings, Settings
from guidance_core.errors import GenerationFailed, Unsupported
from guidance_core.executors.triton.executor import TritonExecutor
from guidance_core.generation import GenerationRequest, Grammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.constraint import Constraint
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from tests.executors.asking import make_request
from tests.executors.triton.engine_process import Engine
from tests.executors.triton.fixtures import idle, started
from tests.executors.triton.server import TritonServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = ("tensorrt_llm", "ensemble", "tensorrt_llm_bls", "llm_api")
TEXT_MODELS = MODELS[1:]
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model_path / "tokenizer.json"))


@pytest.fixture(scope="module")
def prompt_ids(tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = tokenizer.encode(QUESTION).ids
    return ids


@pytest.fixture(scope="module")
def grammars(model_path: Path) -> GrammarCompiler:
    tokenizer: LLTokenizer = load_ll_tokenizer(model_path, 49152, (2,))
    return GrammarCompiler(tokenizer, GuidanceSettings())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executors(model_path: Path, triton_server: TritonServer) -> AsyncIterator[dict[str, TritonExecutor]]:
    ready = await asyncio.gather(*(started(model_path, triton_server, model) for model in MODELS))
    found = dict(zip(MODELS, ready, strict=True))
    yield found
    await asyncio.gather(*(executor.shutdown() for executor in found.values()))


async def text_of(
    executor: TritonExecutor, request: GenerationRequest, tokenizer: Tokenizer
) -> list[tuple[str, str | None]]:
    """Each choice's text and finish reason."""
    texts = [""] * request.sampling.n
    tokens: list[list[int]] = [[] for _ in texts]
    reasons: list[str | None] = [None] * request.sampling.n
    async for delta in executor.generate(request):
        texts[delta.index] += delta.text or ""
        tokens[delta.index] += delta.token_ids
        reasons[delta.index] = delta.finish_reason
    return [(text or tokenizer.decode(ids), reason) for text, ids, reason in zip(texts, tokens, reasons, strict=True)]


async def compiled(grammars: GrammarCompiler, asked: Constraint) -> Grammar:
    return (await grammars.compile(asked)).grammar


@pytest.mark.parametrize("model", MODELS)
async def test_the_answer_is_the_same_through_every_interface(
    executors: dict[str, TritonExecutor], tokenizer: Tokenizer, prompt_ids: list[int], model: str
) -> None:
    executor = executors[model]
    whole = await text_of(executor, make_request(prompt_ids, max_tokens=20), tokenizer)
    assert whole == [("The capital of France is Paris.", "stop")]
    cut = await text_of(executor, make_request(prompt_ids, max_tokens=4), tokenizer)
    assert cut == [("The capital of France", "length")]


@pytest.mark.parametrize("model", MODELS)
async def test_choices_differ_and_a_seed_repeats_them(
    executors: dict[str, TritonExecutor], tokenizer: Tokenizer, model: str
) -> None:
    story = tokenizer.encode(QUESTION.replace("What is the capital of France?", "Tell me a story.")).ids
    request = make_request(story, n=2, temperature=1.0, top_p=0.9, seed=11, max_tokens=8)
    first = await text_of(executors[model], request, tokenizer)
    assert first[0] != first[1]
    assert await text_of(executors[model], request, tokenizer) == first


@pytest.mark.parametrize("model", [model for model in MODELS if model != "llm_api"])
@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        (constraint.choice(["Rome (I)", 'Paris, "F"']), r'"F"|\(I\)'),
        (constraint.regex("[A-Z]{3}-[0-9]{2}"), "-"),
        (
            constraint.json_schema(
                {
                    "type": "object",
                    "properties": {"city": {"type": "string", "maxLength": 9}},
                    "required": ["city"],
                    "additionalProperties": False,
                }
            ),
            "city",
        ),
        (constraint.json_schema({"enum": ["Paris", "Rome"]}), "Paris|Rome"),
        (constraint.json_object(), r"\{"),
    ],
    ids=["choice", "regex", "json_schema", "enum", "json_object"],
)
async def test_a_constrained_answer_is_proved(
    executors: dict[str, TritonExecutor],
    tokenizer: Tokenizer,
    prompt_ids: list[int],
    grammars: GrammarCompiler,
    model: str,
    asked: Constraint,
    pattern: str,
) -> None:
    grammar = await compiled(grammars, asked)
    [(text, reason)] = await text_of(executors[model], make_request(prompt_ids, grammar, max_tokens=24), tokenizer)
    assert reason == ("stop" if grammars.accepts(grammar, text.encode()) else "length")
    if asked.kind != "json_object":
        assert reason == "stop"


@pytest.mark.parametrize(
    ("model", "complete"), [("tensorrt_llm", True), ("tensorrt_llm_bls", True), ("ensemble", False)]
)
async def test_a_character_of_several_tokens_is_whole_or_an_error(
    executors: dict[str, TritonExecutor],
    tokenizer: Tokenizer,
    prompt_ids: list[int],
    grammars: GrammarCompiler,
    model: str,
    complete: bool,
) -> None:
    grammar = await compiled(grammars, constraint.choice(["\N{PARTY POPPER} Zoë \N{MAHJONG TILE RED DRAGON}"]))
    request = make_request(prompt_ids, grammar, max_tokens=30)
    if complete:
        expected = ("\N{PARTY POPPER} Zoë \N{MAHJONG TILE RED DRAGON}", "stop")
        assert await text_of(executors[model], request, tokenizer) == [expected]
    else:
        with pytest.raises(GenerationFailed, match="cut a character in two"):
            await text_of(executors[model], request, tokenizer)


async def test_the_llm_api_has_no_guides_and_few_parameters(
    executors: dict[str, TritonExecutor], prompt_ids: list[int], grammars: GrammarCompiler
) -> None:
    grammar = await compiled(grammars, constraint.regex("a"))
    with pytest.raises(Unsupported, match="response_format cannot be honoured"):
        executors["llm_api"].check(make_request(prompt_ids, grammar))
    for field, value in (("repetition_penalty", 1.2), ("min_tokens", 2), ("ignore_eos", True)):
        with pytest.raises(Unsupported, match=field):
            executors["llm_api"].check(make_request(prompt_ids, **{field: value}))


@pytest.mark.parametrize("model", TEXT_MODELS)
async def test_what_can_only_be_said_in_tokens_is_refused_by_name(
    executors: dict[str, TritonExecutor], tokenizer: Tokenizer, prompt_ids: list[int], model: str
) -> None:
    for sampling in ({"stop_token_ids": (5,)}, {"logit_bias": {5: 1.0}}):
        with pytest.raises(Unsupported, match="takes text, not tokens"):
            executors[model].check(make_request(prompt_ids, **sampling))
    with pytest.raises(Unsupported, match="return_token_ids cannot be honoured"):
        executors[model].check(replace(make_request(prompt_ids), token_ids=True))
    letters = [token for letter in "capital" for token in tokenizer.encode(letter).ids]
    with pytest.raises(Unsupported, match="are not those that its text has"):
        await anext(executors[model].generate(make_request(letters)))


async def test_end_tokens_can_be_ignored_inside_an_ensemble(
    executors: dict[str, TritonExecutor], tokenizer: Tokenizer, prompt_ids: list[int]
) -> None:
    request = make_request(prompt_ids, max_tokens=12, ignore_eos=True)
    [(text, reason)] = await text_of(executors["ensemble"], request, tokenizer)
    assert text.startswith("The capital of France is Paris.")
    assert reason == "length"


@pytest.mark.parametrize("model", ["ensemble", "llm_api"])
@pytest.mark.parametrize("answered", [True, False], ids=["after the first piece", "before it"])
async def test_closing_a_stream_stops_the_work_inside(
    executors: dict[str, TritonExecutor],
    triton_engine: Engine,
    prompt_ids: list[int],
    model: str,
    answered: bool,
) -> None:
    prompt = (prompt_ids * 9)[-250:]
    request = make_request(
        prompt, max_tokens=250, temperature=1.0, **({} if model == "llm_api" else {"ignore_eos": True})
    )
    before = await asyncio.to_thread(triton_engine.stats, "default")
    async with aclosing(executors[model].generate(request)) as stream:
        first = asyncio.ensure_future(anext(stream))
        await (first if answered else asyncio.wait([first], timeout=0.05))
        if not answered:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
    await idle(triton_engine, "default")
    after = await asyncio.to_thread(triton_engine.stats, "default")
    assert after["sampled_tokens"] - before["sampled_tokens"] < 150


async def test_a_served_model_answers_through_it_and_looks_for_stop_strings(
    triton_server: TritonServer, triton_engine: Engine, prompt_ids: list[int]
) -> None:
    section = {"url": triton_server.url, "model": "ensemble"}
    loaded = await load_model(Settings.model_validate({"executor": "triton", "triton": section}))
    try:
        request = replace(make_request(prompt_ids, max_tokens=200), stop=("of Fra",))
        answer = Answer(loaded, request)
        pieces = [piece async for _, piece in answer.pieces()]
        assert "".join(piece.text for piece in pieces) == "The capital "
        assert pieces[-1].finish_reason == "stop"
        assert answer.completion_tokens == len(loaded.prompts.tokenizer.encode("The capital ").ids)
        await idle(triton_engine, "default")
        whole = Answer(loaded, make_request(prompt_ids, max_tokens=20))
        assert "".join([piece.text async for _, piece in whole.pieces()]) == "The capital of France is Paris."
        assert whole.completion_tokens == len(["The", " capital", " of", " France", " is", " Paris", ".", "<|im_end|>"])
    finally:
        await loaded.executor.shutdown()
        loaded.grammars.close()
