"""`POST /tgi/tokenize` and `/tgi/chat_tokenize`: a prompt's tokens as the answering endpoints read them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guidance_core.api.openai.chat_run import chat_prompt
from guidance_core.api.openai.functions import with_tools
from guidance_core.api.served_model import ServedModel
from guidance_core.api.tgi.bodies import TGIGenerateBody
from guidance_core.api.tgi.openai import MessagesBody
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.prompt import PromptTokenizer


async def tokenize(served: ServedModel, request: Request) -> Response:
    """Of the body's parameters only ``truncate`` changes the tokens; clients may send the others all the same."""
    body = await TGIGenerateBody.from_http_request(request, None)
    prompts, text, truncate = served.get().prompts, body.inputs, body.parameters.truncate
    tokens = await off_the_loop(len(text), lambda: _tokens(prompts, text, add_special_tokens=True))
    return JSONResponse(tokens if truncate is None else tokens[-truncate:])


async def chat_tokenize(served: ServedModel, request: Request) -> Response:
    """What the chat template makes of a chat request, and its tokens; an image is what the template writes for it."""
    body = with_tools((await MessagesBody.from_http_request(request, None)).for_chat(served))
    prompt = await chat_prompt(served, body)
    text, prompts = prompt.text, served.get().prompts
    tokens = await off_the_loop(len(text), lambda: _tokens(prompts, text, add_special_tokens=False))
    return JSONResponse({"tokenize_response": tokens[-len(prompt.ids) :], "templated_text": text})


def _tokens(prompts: PromptTokenizer, text: str, *, add_special_tokens: bool) -> list[dict[str, Any]]:
    # Its router counts bytes of UTF-8.
    byte: Sequence[int] = range(len(text) + 1)
    if not text.isascii():
        byte = list(accumulate((len(character.encode()) for character in text), initial=0))
    return [
        {"id": token_id, "text": text[start:stop], "start": byte[start], "stop": byte[stop]}
        for token_id, start, stop in prompts.completion_spans(text, add_special_tokens=add_special_tokens)
    ]
