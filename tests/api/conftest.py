"""The real application in this process, with the default model's tokenizer and a scripted executor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from llguidance import LLTokenizer
from openai import AsyncOpenAI
from starlette.applications import Starlette

from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.config import GuidanceSettings, Settings
from guidance_core.executors.base import ModelLimits
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.output import Detokenizer
from guidance_core.prompt import PromptTokenizer
from guidance_core.prompt.tools import ToolUse
from tests.api.scripted_executor import ScriptedExecutor, answer

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def tokenizers(model_path: Path) -> tuple[PromptTokenizer, LLTokenizer]:
    return PromptTokenizer.from_folder(model_path), load_ll_tokenizer(model_path, 49152, (2,))


@pytest_asyncio.fixture
async def executor() -> ScriptedExecutor:
    return ScriptedExecutor(ModelLimits(vocab_size=49152, max_model_len=512, eos_token_ids=(2,)))


@pytest.fixture
def loaded(tokenizers: tuple[PromptTokenizer, LLTokenizer], executor: ScriptedExecutor) -> LoadedModel:
    prompts, ll_tokenizer = tokenizers
    grammars = GrammarCompiler(ll_tokenizer, GuidanceSettings())
    return LoadedModel(
        "smollm2:1", executor, prompts, ToolUse(prompts), None, Detokenizer(prompts.tokenizer), grammars, "fp_test"
    )


@pytest_asyncio.fixture
async def app(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Starlette]:
    import service

    async def load(settings: Settings) -> LoadedModel:
        return loaded

    monkeypatch.setattr(service, "ServedModel", partial(ServedModel, load=load))
    app = service.GuidedLLM.to_asgi()
    async with app.router.lifespan_context(app):
        yield app


@pytest_asyncio.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def openai(client: httpx.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture
def hello(executor: ScriptedExecutor, loaded: LoadedModel) -> str:
    """The executor answers this text."""
    text = "Hello there, world!"
    executor.script = answer(*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids)
    return text
