"""`POST /v1/responses/input_tokens`: how many tokens a response's input would have, without the response."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from guidance_core.api.openai.chat_run import chat_prompt
from guidance_core.api.openai.responses.bodies import ResponsesBody
from guidance_core.api.openai.responses.translation import chat_body, rename
from guidance_core.api.openai.responses.truncation import shortened
from guidance_core.api.served_model import ServedModel
from guidance_core.errors import RequestError


async def count_input_tokens(served: ServedModel, body: ResponsesBody) -> Response:
    """As the response's ``usage.input_tokens`` would say; what is said of the answer may be in the request.

    Raises:
        RequestError: as for the response, save what is about its answer.
    """
    try:
        asked = await shortened(served, body) if body.truncation == "auto" else body
        prompt = await chat_prompt(served, chat_body(asked))
    except RequestError as error:
        rename(error, body)
        raise
    return JSONResponse({"object": "response.input_tokens", "input_tokens": len(prompt.ids)})
