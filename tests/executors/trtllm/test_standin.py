"""The stand-in against what TensorRT-LLM's own references say of its interface, and what the real one refuses."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from guidance_core.executors.trtllm.batched_processor import BatchedProcessor
from guidance_core.executors.trtllm.request_processor import RequestProcessor

pytestmark = pytest.mark.usefixtures("tensorrt_llm")

API: dict[str, Any] = json.loads((Path(__file__).parent / "api.json").read_text())


def defaults_of(function: Any) -> dict[str, Any]:
    """Parameters by name with their defaults, in order."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("kind", ["LLM", "EngineLLM"])
def test_llm_has_the_parameters_and_defaults(kind: str) -> None:
    from tensorrt_llm.llmapi import llm

    backend = "arguments of the PyTorch backend" if kind == "LLM" else "arguments of compiled engines"
    built = getattr(llm, kind)
    assert defaults_of(built.__init__) == API["LLM.__init__"]
    arguments = built._args_class(model="m").model_dump()
    expected = {**API["arguments of both backends"], **API[backend]}
    assert {name: arguments[name] for name in expected} == expected


@pytest.mark.parametrize("name", ["SamplingParams", "GuidedDecodingParams"])
def test_parameters_have_the_fields_and_defaults(name: str) -> None:
    from tensorrt_llm import sampling_params

    fields = dataclasses.fields(getattr(sampling_params, name))
    assert {field.name: field.default for field in fields} == API[name]
    assert all(field.kw_only for field in fields)


def test_generate_async_has_the_parameters_and_defaults() -> None:
    from tensorrt_llm import LLM

    assert defaults_of(LLM.generate_async) == API["LLM.generate_async"]


def test_requests_for_adapters_have_the_parameters_and_refusals(tmp_path: Path) -> None:
    from tensorrt_llm.executor.request import LoRARequest

    assert list(inspect.signature(LoRARequest).parameters)[:2] == ["lora_name", "lora_int_id"]
    assert defaults_of(LoRARequest) == API["LoRARequest"]
    with pytest.raises(ValueError, match="does not exist"):
        LoRARequest("pirate", 1, str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="must be 'hf' or 'nemo'"):
        LoRARequest("pirate", 1, str(tmp_path), "other")


def test_outputs_have_the_attributes() -> None:
    from tensorrt_llm.executor.result import CompletionOutput
    from tensorrt_llm.llmapi.llm import RequestOutput

    assert set(API["CompletionOutput"]) <= set(dir(CompletionOutput(0)))
    source = inspect.getsource(RequestOutput.__mro__[1])
    assert all(f"self.{name}" in source or name in dir(RequestOutput) for name in API["RequestOutput"])


@pytest.mark.parametrize(
    ("processor", "name"),
    [(RequestProcessor, "LogitsProcessor.__call__"), (BatchedProcessor, "BatchedLogitsProcessor.__call__")],
)
def test_our_processors_have_the_interface(processor: type, name: str) -> None:
    assert list(inspect.signature(processor.__call__).parameters)[1:] == API[name]


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 1, "n": 2, "top_p": 0.9},
        {"n": 2},
        {"truncate_prompt_tokens": 0},
    ],
    ids=str,
)
def test_sampling_params_refuse_what_the_real_ones_do(fields: dict[str, Any]) -> None:
    from tensorrt_llm import SamplingParams

    with pytest.raises(ValueError, match=r"best_of|multiple returns|truncate"):
        SamplingParams(**fields)


def test_two_guides_are_refused() -> None:
    from tensorrt_llm import SamplingParams
    from tensorrt_llm.llmapi import GuidedDecodingParams

    with pytest.raises(ValueError, match="Only one guide"):
        SamplingParams(guided_decoding=GuidedDecodingParams(regex="a", grammar="b"))


def test_unknown_arguments_are_refused(checkpoint: Path) -> None:
    from tensorrt_llm import LLM

    with pytest.raises(ValueError, match="invalid argument: max_tokens"):
        LLM(str(checkpoint), max_tokens=3)
