"""`POST /generate`: the endpoint of BentoML's own LLM examples, for `SyncHTTPClient` and Swagger UI."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import ClassVar

from _bentoml_sdk.io_models import IORootModel
from pydantic import ConfigDict, Field
from starlette.responses import Response

from guidance_core.api.answer import Answer
from guidance_core.api.openai.bodies import RequestBody
from guidance_core.api.served_model import ServedModel
from guidance_core.api.streaming import ClosingStream, started
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.generation import GenerationRequest, SamplingParams

EXAMPLES = {"plain": {"prompt": "What is the capital of France?", "max_tokens": 32}}


class GenerateBody(RequestBody):
    """`POST /generate`."""

    model_config = ConfigDict(title="GenerateRequest")

    prompt: str = Field(description="What to ask.")
    system_prompt: str | None = Field(None, description="Who shall answer, and how.")
    max_tokens: int = Field(256, ge=1, description="Most tokens to answer.")


class GeneratedText(IORootModel[str]):
    """Streamed text. A failure in mid-stream breaks the connection off, so that it does not look like an end."""

    media_type: ClassVar[str | None] = "text/plain"

    @classmethod
    async def to_http_response(cls, obj: AsyncGenerator[str, None], serde: object) -> Response:
        """Answer with what the method generates, once it has begun."""
        return ClosingStream(_encoded(await started(obj)), "text/plain")


async def _encoded(texts: AsyncGenerator[str, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(texts):
        async for text in texts:
            yield text.encode()


async def generated_text(served: ServedModel, body: GenerateBody) -> AsyncGenerator[str, None]:
    """The likeliest answer to a prompt (temperature 0), piece by piece.

    Raises:
        RequestError: as `Executor.generate`.
    """
    model = served.get()
    context = model.executor.limits().max_model_len
    prompt_ids = await off_the_loop(
        len(body.prompt) + len(body.system_prompt or ""),
        partial(model.prompts.instruction, body.prompt, system_prompt=body.system_prompt, context=context),
    )
    request = GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompt_ids=prompt_ids,
        sampling=SamplingParams(max_tokens=body.max_tokens, temperature=0.0),
    )
    async with aclosing(Answer(model, request).pieces()) as pieces:
        async for _, piece in pieces:
            if piece.text:
                yield piece.text
