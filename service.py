"""The service: what can be asked of it, and its life. Everything else is in `guidance_core`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import bentoml
from starlette.responses import Response

from guidance_core import telemetry
from guidance_core.api.bento.application import OpenAIService
from guidance_core.api.bento.generate import GenerateBody, GeneratedText, generated_text
from guidance_core.api.bento.lookups import lookups
from guidance_core.api.openai.bodies import ChatBody, CompletionBody
from guidance_core.api.openai.chat import chat_completion
from guidance_core.api.openai.completions import completion
from guidance_core.api.openai.responses.bodies import ResponsesBody
from guidance_core.api.openai.responses.endpoint import create_response
from guidance_core.api.openai.responses.input_tokens import count_input_tokens
from guidance_core.api.openai.schemas import ChatCompletion, Completion, InputTokens, ResponseObject
from guidance_core.api.served_model import ServedModel
from guidance_core.config import load_settings

gets = lookups()


@bentoml.asgi_app(gets, path="/")
@bentoml.service(service_class=OpenAIService)
class GuidedLLM:
    """An OpenAI-compatible LLM service whose structured output is guaranteed."""

    def __init__(self) -> None:
        self.served = gets.state.served = ServedModel(load_settings(arguments=vars(bentoml.use_arguments())))

    @bentoml.on_startup
    async def start(self) -> None:
        """Load in the background: probes are answered meanwhile, with 503 where they ask for readiness."""
        self.served.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Free the model."""
        await self.served.shutdown()

    @bentoml.api(route="/v1/chat/completions", output_spec=ChatCompletion)
    async def chat_completions(self, request: ChatBody, /) -> Response:
        """Answer a conversation, as JSON or, with `stream`, as server-sent events."""
        return await chat_completion(self.served, request)

    @bentoml.api(route="/v1/completions", output_spec=Completion)
    async def completions(self, request: CompletionBody, /) -> Response:
        """Continue a prompt, as JSON or, with `stream`, as server-sent events."""
        return await completion(self.served, request)

    @bentoml.api(route="/v1/responses", output_spec=ResponseObject)
    async def responses(self, request: ResponsesBody, /) -> Response:
        """Answer an input as OpenAI's Responses API does, as JSON or, with `stream`, as server-sent events."""
        return await create_response(self.served, request)

    @bentoml.api(route="/v1/responses/input_tokens", output_spec=InputTokens)
    async def response_input_tokens(self, request: ResponsesBody, /) -> Response:
        """Count the tokens of an input."""
        return await count_input_tokens(self.served, request)

    @bentoml.api(input_spec=GenerateBody, output_spec=GeneratedText)
    async def generate(
        self, prompt: str, system_prompt: str | None = None, max_tokens: int = 256
    ) -> AsyncGenerator[str, None]:
        """Answer a prompt as streamed text."""
        body = GenerateBody(prompt=prompt, system_prompt=system_prompt, max_tokens=max_tokens)
        async for text in generated_text(self.served, body):
            yield text

    async def __is_alive__(self) -> bool:
        return self.served.health().state != "failed"

    async def __is_ready__(self) -> bool:
        return self.served.health().state == "ready"

    async def __metrics__(self, text: str) -> str:
        return text + telemetry.executor_metrics(self.served.health(), self.served.stats())
