"""A service that has no folder of adapters."""

import httpx

from tests.api.conftest import MODEL


async def test_an_adapter_is_refused_with_the_setting_to_make(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json={"model": MODEL, "prompt": "Hi", "lora_model": "pirate"})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "lora_model")
    assert "lora.folder" in error["message"]
