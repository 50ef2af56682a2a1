"""Adapters, bad words and priorities: from the wire to what the executor is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel, load_model
from guidance_core.config import LoraSettings, Settings
from guidance_core.generation import LoraAdapter
from guidance_core.lora_folder import LoraFolder
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

URLS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the adapters `pirate` and `polite`, and a link to one outside of it."""
    for name in ("adapters/polite", "adapters/pirate", "secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "adapter_model.safetensors").touch()
    (tmp_path / "adapters" / "empty").mkdir()
    (tmp_path / "adapters" / "linked").symlink_to(tmp_path / "secret")
    return tmp_path / "adapters"


@pytest.fixture
def loaded(loaded: LoadedModel, folder: Path) -> LoadedModel:
    return replace(loaded, adapters=LoraFolder(folder))


@pytest.mark.parametrize("url", URLS)
async def test_an_adapter_is_chosen_by_model_or_by_lora_model(
    client: httpx.AsyncClient, executor: ScriptedExecutor, hello: str, folder: Path, url: str
) -> None:
    path = str(folder / "pirate")
    bodies: list[tuple[dict[str, Any], LoraAdapter | None]] = [
        ({"model": MODEL}, None),
        ({"model": MODEL, "load_lora_weights": "auto"}, None),
        ({"model": "pirate"}, LoraAdapter("pirate", path)),
        ({"model": MODEL, "lora_model": "pirate"}, LoraAdapter("pirate", path)),
        ({"model": "pirate", "lora_model": "pirate"}, LoraAdapter("pirate", path)),
        ({"model": MODEL, "lora_model": "pirate", "load_lora_weights": "never"}, LoraAdapter("pirate", path, "never")),
        ({"model": "pirate", "load_lora_weights": "always"}, LoraAdapter("pirate", path, "always")),
    ]
    for body, lora in bodies:
        response = await client.post(url, json={**URLS[url], **body})

        assert response.status_code == 200, response.text
        assert response.json()["model"] == body["model"]
        assert executor.requests[-1].lora == lora


async def test_clients_of_text_generation_inference_choose_one_by_adapter_id(
    client: httpx.AsyncClient, executor: ScriptedExecutor, hello: str, folder: Path
) -> None:
    response = await client.post("/tgi/generate", json={"inputs": "Hi", "parameters": {"adapter_id": "pirate"}})
    assert response.status_code == 200, response.text
    assert executor.requests[-1].lora == LoraAdapter("pirate", str(folder / "pirate"))

    refused = await client.post("/tgi/generate", json={"inputs": "Hi", "parameters": {"adapter_id": "../secret"}})
    assert "'../secret'" in refused.json()["error"]


async def test_adapters_are_listed_with_the_model_that_they_are_of(client: httpx.AsyncClient) -> None:
    cards = (await client.get("/v1/models")).json()["data"]

    assert [(card["id"], card.get("parent")) for card in cards] == [(MODEL, None), ("pirate", MODEL), ("polite", MODEL)]
    assert (await client.get("/v1/models/pirate")).json() == cards[1]
    for outside in ("linked", "..%2fsecret", "a" * 300):
        assert (await client.get(f"/v1/models/{outside}")).status_code == 404


async def test_weights_that_link_to_themselves_do_not_hide_the_other_adapters(
    client: httpx.AsyncClient, folder: Path
) -> None:
    weights = folder / "polite" / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(weights)

    assert "pirate" in [card["id"] for card in (await client.get("/v1/models")).json()["data"]]


@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"lora_model": "../secret"}, 400, "lora_model", "'../secret'"),
        ({"lora_model": ".."}, 400, "lora_model", "'..'"),
        ({"lora_model": "/etc"}, 400, "lora_model", "'/etc'"),
        ({"lora_model": ""}, 400, "lora_model", "''"),
        ({"lora_model": "linked"}, 400, "lora_model", "'linked'"),
        ({"lora_model": "empty"}, 404, "lora_model", "'pirate', 'polite'"),
        ({"lora_model": "absent"}, 404, "lora_model", "'absent'"),
        ({"lora_model": "a" * 300}, 404, "lora_model", "there are: 'pirate', 'polite'"),
        ({"model": "a" * 300}, 404, "model", "aaa"),
        ({"lora_model": "%2e%2e%2fsecret"}, 404, "lora_model", "'%2e%2e%2fsecret'"),
        ({"model": "../secret"}, 404, "model", "'../secret'"),
        ({"model": "linked"}, 404, "model", "'linked'"),
        ({"model": "pirate", "lora_model": "polite"}, 400, "lora_model", "leave one out"),
        ({"lora_model": 5}, 400, "lora_model", "string"),
        ({"load_lora_weights": "never"}, 400, "load_lora_weights", "needs an adapter"),
        ({"lora_model": "pirate", "load_lora_weights": "often"}, 400, "load_lora_weights", "'always'"),
    ],
)
@pytest.mark.parametrize("url", URLS)
async def test_what_names_no_adapter_is_refused(
    client: httpx.AsyncClient, url: str, fields: dict[str, Any], status: int, param: str, said: str
) -> None:
    response = await client.post(url, json={"model": MODEL, **URLS[url], **fields})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert said in error["message"]


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/completions"])
async def test_bad_words_are_forbidden_in_both_spellings_and_priorities_are_passed_on(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, hello: str, url: str
) -> None:
    fields = {"bad_words": ["Hello", " world"], "priority": -3}
    response = await client.post(url, json={"model": MODEL, **URLS[url], **fields})

    assert response.status_code == 200, response.text
    [request] = executor.requests
    words = [loaded.prompts.tokenizer.decode(list(ids)) for ids in request.sampling.bad_token_ids]
    assert words == ["Hello", " Hello", " world"]
    assert request.priority == -3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"bad_words": [5]}, "bad_words[0]"),
        ({"bad_words": "no"}, "bad_words"),
        ({"bad_words": ["x"] * 129}, "bad_words"),
        ({"priority": "high"}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": 2**31}, "priority"),
    ],
)
@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/completions"])
async def test_bad_words_and_priorities_of_no_sense_are_a_400(
    client: httpx.AsyncClient, url: str, fields: dict[str, Any], param: str
) -> None:
    response = await client.post(url, json={"model": MODEL, **URLS[url], **fields})

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_folder_of_adapters_needs_the_executor_that_applies_them(model_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"lora\.folder is set, but the executor 'triton' applies no adapters"):
        await load_model(Settings(executor="triton", lora=LoraSettings(folder=str(folder))))
    with pytest.raises(ValueError, match="no such folder"):
        await load_model(Settings(lora=LoraSettings(folder=str(folder / "absent"))))
