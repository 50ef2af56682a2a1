"""What answers look like, for the OpenAPI document."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Tokenized(BaseModel):
    """A prompt's tokens."""

    count: int
    max_model_len: int = Field(description="Most tokens of prompt and answer.")
    tokens: list[int]
    token_strs: list[str] | None = Field(description="As the vocabulary spells them, where they are asked for.")


class Detokenized(BaseModel):
    """The text of tokens."""

    prompt: str
