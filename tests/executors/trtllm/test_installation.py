"""What is used of TensorRT-LLM is found in each version that has it elsewhere."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from guidance_core.errors import ExecutorUnavailable
from guidance_core.executors.trtllm.installation import lora_config_class

pytestmark = pytest.mark.usefixtures("tensorrt_llm")

PLACES = ("tensorrt_llm._torch.peft.lora.config", "tensorrt_llm.lora_helper", "tensorrt_llm.lora_manager")


@pytest.mark.parametrize("place", PLACES)
def test_the_configuration_of_adapters_is_found_where_each_version_has_it(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    module = ModuleType(place)
    module.LoraConfig = marker = type("LoraConfig", (), {})  # type: ignore[attr-defined]
    for name in PLACES:
        monkeypatch.setitem(sys.modules, name, module if name == place else None)  # type: ignore[arg-type]
    assert lora_config_class() is marker


def test_a_version_that_has_it_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACES:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    with pytest.raises(ExecutorUnavailable, match=r"unset lora\.folder"):
        lora_config_class()
