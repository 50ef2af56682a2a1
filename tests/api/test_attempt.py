from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from guidance_core.grammar.compiler import GrammarCompiler
from tests.api.conftest import MODEL

CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hello?"}],
    "guided_regex": "Hello[a-z ,!]*",
}


@pytest.mark.parametrize(
    ("name", "fields"), [("accepts", {"stop": ["lo"]}), ("replay", {"llg_log_level": "json"})], ids=["stop", "log"]
)
@pytest.mark.usefixtures("hello")
async def test_grammars_are_compiled_again_where_the_stack_is_deep_and_the_event_loop_goes_on(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, name: str, fields: dict[str, Any]
) -> None:
    # On a stack of 8 MiB, llguidance ends the whole process over references that form a chain of some thousands.
    threads: list[str] = []
    original = getattr(GrammarCompiler, name)

    def noted(self: GrammarCompiler, *arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return original(self, *arguments)

    monkeypatch.setattr(GrammarCompiler, name, noted)
    response = await client.post("/v1/chat/completions", json={**CHAT, **fields})
    assert response.status_code == 200
    assert threads
    assert all(thread.startswith("grammar-answers") for thread in threads)
