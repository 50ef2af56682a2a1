"""OpenAI's own client against a service that runs the default model on the stand-in for TensorRT-LLM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import bentoml
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from openai import OpenAI

from tests.executors.trtllm.conftest import STANDIN, compile_engine
from tests.integration.conftest import MODEL, Server, serving
from tests.integration.test_openai_client import (
    test_a_schema_holds_at_any_temperature_and_for_each_choice,
    test_a_stream_is_the_same_answer_in_pieces,
    test_an_answer_that_is_cut_off_says_length,
    test_async_requests_run_side_by_side_each_in_its_own_grammar,
    test_logprobs_are_of_the_answer_even_under_a_grammar,
    test_models_can_be_listed_and_looked_up,
    test_parse_gives_a_pydantic_model,
    test_stop_strings_are_not_returned,
    test_the_same_seed_gives_the_same_answer,
    test_the_stream_helper_parses_too,
)

__all__ = [
    "test_a_schema_holds_at_any_temperature_and_for_each_choice",
    "test_a_stream_is_the_same_answer_in_pieces",
    "test_an_answer_that_is_cut_off_says_length",
    "test_async_requests_run_side_by_side_each_in_its_own_grammar",
    "test_logprobs_are_of_the_answer_even_under_a_grammar",
    "test_models_can_be_listed_and_looked_up",
    "test_parse_gives_a_pydantic_model",
    "test_stop_strings_are_not_returned",
    "test_the_same_seed_gives_the_same_answer",
    "test_the_stream_helper_parses_too",
]


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a compiled engine; the other ways of guidance differ within the executor alone, and are tested there."""
    folder = tmp_path_factory.mktemp("trtllm")
    engine = compile_engine(model_path, folder / "engine", max_seq_len=1024, max_batch_size=8)
    put_into_store(engine, "compiled", home=folder / "bentoml")
    environment = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "PYTHONPATH": str(STANDIN),
        "GUIDED_TRTLLM_EXECUTOR": "trtllm",
        "GUIDED_TRTLLM_MODEL__TAG": "compiled:latest",
        "GUIDED_TRTLLM_MODEL__SERVED_NAME": MODEL,
        "GUIDED_TRTLLM_TRTLLM__MAX_BATCH_SIZE": "8",
        "GUIDED_TRTLLM_TRTLLM__MAX_MODEL_LEN": "1024",
    }
    with serving(folder / "log.txt", **environment) as server:
        yield server


def put_into_store(folder: Path, name: str, *, home: Path) -> None:
    """Make a Bento model store that holds a folder under a name."""
    (home / "models").mkdir(parents=True)
    with BentoMLContainer.model_store.patch(ModelStore(home / "models")), bentoml.models.create(name) as model:
        shutil.copytree(folder, model.path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def openai(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_models_and_logs_say_how_grammars_are_kept(openai: OpenAI, server: Server) -> None:
    assert openai.models.retrieve(MODEL).model_extra == {
        "executor": {
            "name": "trtllm",
            "engine": "TensorRT-LLM 1.2.1",
            "backend": "tensorrt",
            "guidance": "batched",
        }
    }
    assert "what enforces grammars: batched" in server.log.read_text()
