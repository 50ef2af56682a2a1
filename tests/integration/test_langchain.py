"""LangChain's OpenAI integration against the running service."""

from __future__ import annotations

from typing import Literal

import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr

from tests.integration.conftest import MODEL, Server


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    people: int = Field(ge=0, le=50_000_000)


@pytest.fixture(scope="module")
def chat(server: Server) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=f"{server.url}/v1", api_key=SecretStr("none"), temperature=0, timeout=60)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_of_the_class(
    chat: ChatOpenAI, method: Literal["json_schema", "function_calling"]
) -> None:
    structured = chat.with_structured_output(City, method=method, strict=True)

    assert isinstance(structured.invoke("Tell me about the capital of France."), City)


def test_streams_and_batches_answer(chat: ChatOpenAI) -> None:
    question = "What is the capital of France?"
    streamed = "".join(str(chunk.content) for chunk in chat.stream(question))

    assert "Paris" in streamed
    assert [message.content for message in chat.batch([question, question])] == [streamed, streamed]
