"""A model's life, from loading to shutdown."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from guidance_core.api import served_model
from guidance_core.api.served_model import LoadedModel, ServedModel, load_model
from guidance_core.config import ModelSettings, Settings
from guidance_core.errors import ExecutorUnavailable, ModelNotFound
from guidance_core.executors.base import ExecutorStats
from guidance_core.model_store import StoredModel
from tests.api.scripted_executor import ScriptedExecutor


async def settled(served: ServedModel) -> ServedModel:
    served.start()
    for _ in range(3):
        await asyncio.sleep(0)
    return served


def test_the_name_is_the_tags_without_version_unless_another_one_is_set() -> None:
    assert ServedModel(Settings(model=ModelSettings(tag="zephyr:v2"))).name == "zephyr"
    assert ServedModel(Settings(model=ModelSettings(tag="zephyr:v2", served_name="gpt"))).name == "gpt"


async def test_nothing_can_be_asked_before_it_is_loaded() -> None:
    async def load(settings: Settings) -> LoadedModel:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    served = await settled(ServedModel(Settings(), load))

    assert served.health().state == "starting"
    assert served.stats() == ExecutorStats()
    with pytest.raises(ExecutorUnavailable, match="loaded"):
        served.get()
    await served.shutdown()


async def test_shutdown_in_the_middle_of_loading_cancels_it() -> None:
    cancelled = asyncio.Event()

    async def load(settings: Settings) -> LoadedModel:
        try:
            return await asyncio.Event().wait()  # type: ignore[return-value]
        except asyncio.CancelledError:
            cancelled.set()
            raise

    served = await settled(ServedModel(Settings(), load))
    await served.shutdown()

    assert cancelled.is_set()


async def test_a_loaded_model_answers_to_its_name_only_and_shuts_its_executor_down(
    loaded: LoadedModel, executor: ScriptedExecutor
) -> None:
    async def load(settings: Settings) -> LoadedModel:
        return loaded

    served = await settled(ServedModel(Settings(), load))

    assert served.get(served.name) is served.get() is loaded
    with pytest.raises(ModelNotFound, match=served.name):
        served.get("another")
    await served.shutdown()
    assert executor.health().state == "stopped"


async def test_an_unexpected_failure_is_told_without_its_inside_and_logged_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def load(settings: Settings) -> LoadedModel:
        raise KeyError("secret")

    served = await settled(ServedModel(Settings(), load))

    assert served.health().state == "failed"
    assert "secret" not in served.health().detail
    assert "secret" in caplog.text


async def test_what_is_set_of_the_model_reaches_prompts_and_tools(
    model_path: Path, tmp_path: Path, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = tmp_path / "own.liquid"
    history.write_text("{{ eos_token }}{% for item in items %}{{ item.content }}{% endfor %}")
    monkeypatch.setattr(served_model, "resolve", lambda tag: StoredModel("smollm2:1", model_path, {}, {}))
    monkeypatch.setattr(served_model, "check_fits", lambda model, settings: None)
    monkeypatch.setattr(served_model, "create_executor", lambda path, settings: executor)
    model = ModelSettings(
        history_template=str(history),
        bos_token="<|im_end|>",
        eos_token="<|im_start|>",
        json_start_token="<|endoftext|>",
    )

    loaded = await load_model(Settings(model=model))

    assert loaded.prompts.chat_text([{"role": "user", "content": "Hi"}]) == "<|im_start|>Hi"
    assert loaded.prompts.completion("Hi")[0] == 2
    assert loaded.tool_use.format.trigger == "<|endoftext|>"
    loaded.grammars.close()


async def test_the_garbage_collector_passes_over_what_was_loaded(
    model_path: Path, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_model, "resolve", lambda tag: StoredModel("smollm2:1", model_path, {}, {}))
    monkeypatch.setattr(served_model, "check_fits", lambda model, settings: None)
    monkeypatch.setattr(served_model, "create_executor", lambda path, settings: executor)

    gc.unfreeze()
    loaded = await load_model(Settings())

    assert gc.get_freeze_count() > 10_000
    loaded.grammars.close()
    gc.unfreeze()


async def test_a_model_that_fails_when_all_is_loaded_leaves_no_executor_behind(
    model_path: Path, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prompts: object) -> None:
        raise ValueError("no markers")

    monkeypatch.setattr(served_model, "resolve", lambda tag: StoredModel("smollm2:1", model_path, {}, {}))
    monkeypatch.setattr(served_model, "check_fits", lambda model, settings: None)
    monkeypatch.setattr(served_model, "create_executor", lambda path, settings: executor)
    monkeypatch.setattr(served_model, "_reasoning", fail)

    with pytest.raises(ValueError, match="no markers"):
        await load_model(Settings())

    assert executor.health().state == "stopped"
