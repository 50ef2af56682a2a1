"""OpenAI's endpoints on the wire, as its router has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from guidance_core.lora_folder import LoraFolder
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("wanted", "kind", "definition"),
    [
        ({"type": "json", "value": SCHEMA}, "json_schema", '"age"'),
        ({"type": "json_object", "value": SCHEMA}, "json_schema", '"age"'),
        ({"type": "json_schema", "value": {"name": "person", "schema": SCHEMA}}, "json_schema", '"age"'),
        ({"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}, "json_schema", '"age"'),
        ({"type": "regex", "value": "[0-9]{3}"}, "regex", "[0-9]{3}"),
    ],
)
async def test_an_answers_format_may_be_written_as_its_grammars_are(
    client: httpx.AsyncClient, executor: ScriptedExecutor, wanted: dict[str, Any], kind: str, definition: str
) -> None:
    response = await client.post("/tgi/v1/chat/completions", json={**ASK, "response_format": wanted})

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert grammar.kind == kind
    assert definition in grammar.definition


@pytest.mark.parametrize(
    "wanted",
    [{"type": "yaml", "value": ""}, {"type": "regex", "value": 5}, {"type": "json", "value": None}, {"value": SCHEMA}],
)
async def test_other_formats_are_refused_in_its_shape(client: httpx.AsyncClient, wanted: dict[str, Any]) -> None:
    response = await client.post("/tgi/v1/chat/completions", json={**ASK, "response_format": wanted})

    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert "response_format" in response.json()["error"]


@pytest.mark.parametrize("choice", ["clock", {"function": {"name": "clock"}}])
async def test_a_function_is_chosen_by_its_name(
    client: httpx.AsyncClient, executor: ScriptedExecutor, choice: Any
) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("clock", "dial")]
    response = await client.post("/tgi/v1/chat/completions", json={**ASK, "tools": tools, "tool_choice": choice})

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert "clock" in grammar.definition
    assert "dial" not in grammar.definition


TOOLS = [{"type": "function", "function": {"name": "clock"}}]


async def prompt_of(client: httpx.AsyncClient, **fields: Any) -> str:
    """What the model gets, as both endpoints tell it."""
    told = await client.post("/tgi/chat_tokenize", json={**ASK, **fields})
    assert told.status_code == 200, told.text
    answered = await client.post("/tgi/v1/chat/completions", json={**ASK, **fields, "return_expanded_prompt": True})
    assert answered.json()["expanded_prompt"] == told.json()["templated_text"]
    text: str = told.json()["templated_text"]
    return text


async def test_a_chat_is_told_as_text_and_tokens(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    ask = {"messages": [{"role": "user", "content": "é?"}], "tools": TOOLS, "max_tokens": 5}
    told = (await client.post("/tgi/chat_tokenize", json=ask)).json()
    assert told.keys() == {"tokenize_response", "templated_text"}
    text, tokens = told["templated_text"], told["tokenize_response"]
    assert text.endswith("é?<|im_end|>\n<|im_start|>assistant\n")
    assert "clock" in text
    assert all(text.encode()[token["start"] : token["stop"]].decode() == token["text"] for token in tokens)

    for truncated in ({}, {"truncate_prompt_tokens": 3}):
        told = (await client.post("/tgi/chat_tokenize", json={**ask, **truncated})).json()
        await client.post("/tgi/v1/chat/completions", json={**ask, **truncated})
        assert executor.requests[-1].prompt_ids == tuple(token["id"] for token in told["tokenize_response"])


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"inputs": "Hi"}, {**ASK, "tool_choice": "clock"}])
async def test_chats_that_are_none_are_refused_in_its_shape(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post("/tgi/chat_tokenize", json=body)

    assert (response.status_code, response.json()["error_type"]) == (422, "validation")


async def test_a_prompt_for_tools_ends_the_last_message(client: httpx.AsyncClient) -> None:
    assert "Hi\n---\nCall one.<|im_end|>" in await prompt_of(client, tools=TOOLS, tool_prompt="Call one.")
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert "Call one.<|im_end|>" in await prompt_of(client, tools=TOOLS, tool_prompt="Call one.", messages=parts)
    assert "Call" not in await prompt_of(client, tools=TOOLS, tool_prompt="Call one.", tool_choice="none")
    refused = await client.post("/tgi/chat_tokenize", json={**ASK, "tool_prompt": "Call one."})
    assert "'tool_prompt' is about 'tools'" in refused.json()["error"]


async def test_an_assistants_message_that_comes_last_is_continued(client: httpx.AsyncClient) -> None:
    begun = [*ASK["messages"], {"role": "assistant", "content": "Well, "}]
    assert (await prompt_of(client, messages=begun)).endswith("assistant\nWell,")
    assert (await prompt_of(client, messages=begun, add_generation_prompt=True)).endswith("<|im_start|>assistant\n")
    empty = [*ASK["messages"], {"role": "assistant", "content": ""}]
    assert (await prompt_of(client, messages=empty)).endswith("<|im_start|>assistant\n")


async def test_a_prompt_is_continued_up_to_the_contexts_end(
    client: httpx.AsyncClient, executor: ScriptedExecutor, hello: str
) -> None:
    response = await client.post("/tgi/v1/completions", json={"model": "tgi", "prompt": "Hi"})
    assert response.json()["choices"][0]["text"] == hello
    request = executor.requests[0]
    assert len(request.prompt_ids) + request.sampling.max_tokens == 512

    refused = await client.post("/tgi/v1/completions", json={"prompt": "Hi", "watermark": True})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")


async def test_the_models_are_those_of_openais_endpoint(client: httpx.AsyncClient) -> None:
    assert (await client.get("/tgi/v1/models")).json() == (await client.get("/v1/models")).json()


@pytest.mark.parametrize("path", ["/tgi", "/tgi/", "/tgi/ping"])
async def test_health_has_further_names(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)

    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("url", "body"), [("/tgi/v1/chat/completions", ASK), ("/tgi/v1/completions", {"prompt": "Hi"})]
)
class TestWithAdapters:
    @pytest.fixture
    def loaded(self, loaded: LoadedModel, tmp_path: Path) -> LoadedModel:
        (tmp_path / "pirate").mkdir()
        (tmp_path / "pirate" / "adapter_config.json").write_text("{}")
        (tmp_path / "pirate" / "adapter_model.safetensors").touch()
        return replace(loaded, adapters=LoraFolder(tmp_path))

    async def test_model_names_an_adapter_or_the_model_whatever_it_says(
        self, client: httpx.AsyncClient, executor: ScriptedExecutor, url: str, body: dict[str, Any]
    ) -> None:
        for name, adapter in (("pirate", "pirate"), ("tgi", None), ("", None), (MODEL, None)):
            response = await client.post(url, json={**body, "model": name})
            assert response.status_code == 200, response.text
            lora = executor.requests[-1].lora
            assert (lora and lora.name) == adapter


async def test_the_document_shows_its_own_forms(client: httpx.AsyncClient) -> None:
    document = (await client.get("/docs.json")).json()
    body = document["components"]["schemas"]["MessagesBody"]
    fields = body["properties"]

    assert {"tool_prompt", "messages"} <= fields.keys()
    assert "RegexGrammar" in str(fields["response_format"])
    assert "RegexFormat" in str(fields["response_format"])
    assert "UntypedTool" in str(fields["tool_choice"])
    assert "model" not in body["required"]
    assert {"RegexGrammar", "UntypedTool", "NamedFunction"} <= document["components"]["schemas"].keys()


@pytest.mark.parametrize(("path", "instead"), [("/tgi/metrics", "/metrics"), ("/tgi/invocations", "POST /tgi")])
async def test_what_lies_elsewhere_is_told(client: httpx.AsyncClient, path: str, instead: str) -> None:
    response = await client.get(path)

    assert (response.status_code, response.json()["error_type"]) == (404, "not_found")
    assert instead in response.json()["error"].removeprefix(f"Unknown URL: GET {path}")


async def test_a_schema_that_is_not_there_is_missed(client: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "value": {"name": "person"}}
    response = await client.post("/tgi/v1/chat/completions", json={**ASK, "response_format": form})

    assert response.status_code == 422
    assert "'value.schema'" in response.json()["error"]


async def test_all_methods_of_a_path_are_told(client: httpx.AsyncClient) -> None:
    response = await client.put("/tgi")

    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, POST")
    assert response.json()["error"] == "/tgi does not answer PUT: use GET, HEAD, POST."


async def test_a_conversation_for_generate_is_told_where_it_goes(client: httpx.AsyncClient) -> None:
    for path in ("/tgi", "/tgi/generate"):
        response = await client.post(path, json=ASK)
        assert response.status_code == 422
        assert "/tgi/v1/chat/completions" in response.json()["error"]
