"""Which interface a model has, and what is sent to it, by its configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from google.protobuf import text_format
from tokenizers import Tokenizer, decoders, models
from tritonclient.grpc import service_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from guidance_core.errors import Unsupported
from guidance_core.executors.base import ModelLimits
from guidance_core.executors.triton.connection import Connection
from guidance_core.executors.triton.discovery import discover
from guidance_core.executors.triton.interface import ModelInterface, UnknownInterface
from guidance_core.executors.triton.tensors import input_specs
from tests.executors.asking import make_request
from tests.executors.triton import repository

ONE_END = ModelLimits(5, 100, (3,))
TWO_ENDS = ModelLimits(5, 100, (3, 4))


def tokenizer(decoder: decoders.Decoder) -> Tokenizer:
    vocabulary = {"a": 0, "b": 1, "c": 2, "<end>": 3, "<stop>": 4}
    found = Tokenizer(models.BPE(vocabulary, []))
    found.add_special_tokens(["<end>", "<stop>"])
    found.decoder = decoder
    return found


BYTES = tokenizer(decoders.ByteLevel())
SENTENCEPIECE = tokenizer(decoders.Metaspace())


class Repository:
    """A folder of models, as a connection to a server that has loaded them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def model_config(self, model: str) -> ModelConfig:
        text = (self._folder / model / "config.pbtxt").read_text()
        return cast(ModelConfig, text_format.Parse(text, ModelConfig()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    repository.write_text_models(tmp_path, engine="any", tokenizer=tmp_path)
    repository.write_llm_api_model(tmp_path, "llm_api", engine="any", tokenizer=tmp_path, end_id=3)
    return tmp_path


async def interface(folder: Path, model: str, limits: ModelLimits, tokenizer: Tokenizer = BYTES) -> ModelInterface:
    return await discover(cast(Connection, Repository(folder)), model, limits, tokenizer)


async def sent(model: ModelInterface, **sampling: object) -> dict[str, bytes]:
    """What is sent for a prompt of one token, by the inputs' names."""
    request: service_pb2.ModelInferRequest = await model.request(make_request([0], **sampling), 0, "1", 0)
    return {tensor.name: content for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("tensorrt_llm", "token-level"),
        ("ensemble", "text-level"),
        ("tensorrt_llm_bls", "text-level"),
        ("llm_api", "LLM API"),
    ],
)
async def test_a_model_is_known_by_its_inputs_and_gets_no_other_ones(folder: Path, model: str, kind: str) -> None:
    found = await interface(folder, model, ONE_END)
    assert found.kind == kind
    names = set(input_specs(await Repository(folder).model_config(model)))
    assert set(await sent(found, temperature=0.7, seed=1, top_k=3)) <= names


async def test_only_an_ensembles_inner_work_must_be_stopped_by_a_request_of_its_own(folder: Path) -> None:
    for model in ("tensorrt_llm", "tensorrt_llm_bls", "llm_api"):
        assert (await interface(folder, model, ONE_END)).stop_with is None
    stop = (await interface(folder, "ensemble", ONE_END)).stop_with
    assert stop is not None
    request = stop.request("77")
    assert (request.model_name, request.id) == ("tensorrt_llm", "77")
    assert [tensor.name for tensor in request.inputs] == [
        "input_ids",
        "input_lengths",
        "request_output_len",
        "stop",
    ]


async def test_all_of_several_end_tokens_end_an_answer(folder: Path) -> None:
    to_tokens = await sent(await interface(folder, "tensorrt_llm", TWO_ENDS))
    assert [int.from_bytes(to_tokens["stop_words_list"][i : i + 4], "little") for i in range(0, 16, 4)] == [3, 4, 1, 2]
    assert int.from_bytes(to_tokens["end_id"], "little", signed=True) == -1
    to_text = await sent(await interface(folder, "ensemble", TWO_ENDS))
    assert to_text["stop_words"] == b"\x06\0\0\0<stop>"
    assert int.from_bytes(to_text["end_id"], "little") == 3
    with pytest.raises(Unsupported, match="several end tokens"):
        (await interface(folder, "ensemble", TWO_ENDS)).check(make_request([0], min_tokens=2))


async def test_a_text_model_that_could_not_tell_why_an_answer_ended_is_refused(tmp_path: Path) -> None:
    for missing in ("return_num_output_tokens", "stop_words"):
        folder = tmp_path / missing
        inputs = repository.without(repository.TEXT_INPUTS, missing)
        parameters = {"accumulate_tokens": "true"}
        repository.write_model(folder, "bls", "bls.py", inputs, repository.TEXT_OUTPUTS, parameters=parameters)
        repository.write_token_model(folder, engine="any")
        repository.write_token_model(folder, "preprocessing", engine="any")
        with pytest.raises(UnknownInterface, match=missing):
            await interface(folder, "bls", TWO_ENDS)


async def test_a_detokenizer_that_loses_spaces_is_refused(folder: Path) -> None:
    for model in ("ensemble", "bls_in_pieces"):
        with pytest.raises(UnknownInterface, match="loses the spaces"):
            await interface(folder, model, ONE_END, SENTENCEPIECE)
    assert (await interface(folder, "tensorrt_llm_bls", ONE_END, SENTENCEPIECE)).kind == "text-level"


async def test_nothing_is_left_to_the_servers_defaults_of_drawing(folder: Path) -> None:
    model = await interface(folder, "tensorrt_llm", ONE_END)
    drawn = await sent(model, temperature=1.0)
    assert {"temperature", "runtime_top_k", "runtime_top_p", "seed"} <= set(drawn)
    greedy = await sent(model, temperature=0.0)
    assert int.from_bytes(greedy["runtime_top_k"], "little") == 1
    assert await sent(model, temperature=1e-12) == greedy
    seeds = {
        (await model.request(make_request([0], temperature=1.0, n=2), i, "1", 5)).SerializeToString() for i in (0, 1)
    }
    assert len(seeds) == 2
    wide = await interface(folder, "tensorrt_llm", ModelLimits(5000, 100, (3,)))
    with pytest.raises(Unsupported, match="1024 tokens at most"):
        wide.check(make_request([0], temperature=1.0, top_k=1025))
