"""What failures look like, for the OpenAPI document. Answers are events only."""

from __future__ import annotations

from pydantic import BaseModel


class GuidanceError(BaseModel):
    """A failure as llgtrt writes it."""

    error: str
