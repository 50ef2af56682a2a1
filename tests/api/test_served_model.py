"""A model's life, from loading to shutdown."""

from __future__ import annotations

import asyncio

import pytest

from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.config import ModelSettings, Settings
from guidance_core.errors import ExecutorUnavailable, ModelNotFound
from guidance_core.executors.base import ExecutorStats
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
