"""BentoML's own client against the running service."""

from __future__ import annotations

import bentoml
import pytest
from bentoml.exceptions import BentoMLException

from tests.integration.conftest import MODEL, Server


def test_generate_streams_text(server: Server) -> None:
    with bentoml.SyncHTTPClient(server.url) as client:
        pieces = list(client.generate(prompt="What is the capital of France?", max_tokens=12))

    assert len(pieces) > 1
    assert all(isinstance(piece, str) for piece in pieces)


def test_chat_completions_answers_a_dictionary(server: Server) -> None:
    with bentoml.SyncHTTPClient(server.url) as client:
        answer = client.chat_completions(
            {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        )

    assert answer["object"] == "chat.completion"


def test_a_refusal_reaches_the_caller_in_words(server: Server) -> None:
    with bentoml.SyncHTTPClient(server.url) as client, pytest.raises(BentoMLException, match="guided_regex"):
        client.completions({"model": MODEL, "prompt": "Hi", "guided_regex": "("})
