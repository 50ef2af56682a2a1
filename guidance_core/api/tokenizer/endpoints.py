"""The two endpoints; failures have OpenAI's shape, as vLLM's have."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guidance_core.api.endpoint import Dialect, Endpoint
from guidance_core.api.openai.conversation import prompt_of
from guidance_core.api.openai.errors import error_response
from guidance_core.api.openai.schemas import OpenAIError
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.tokenizer.bodies import DetokenizeBody, TokenizeBody
from guidance_core.api.tokenizer.schemas import Detokenized, Tokenized
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.errors import InvalidRequest


async def tokenize(served: ServedModel, request: Request) -> Response:
    """Text → token ids."""
    body = await TokenizeBody.from_http_request(request, None)
    model = served.get(body.model)
    tokens = await _tokens(served, model, body)
    tokenizer = model.prompts.tokenizer
    return JSONResponse(
        {
            "count": len(tokens),
            "max_model_len": model.executor.limits().max_model_len,
            "tokens": list(tokens),
            "token_strs": [tokenizer.id_to_token(token) for token in tokens] if body.return_token_strs else None,
        }
    )


async def _tokens(served: ServedModel, model: LoadedModel, body: TokenizeBody) -> tuple[int, ...]:
    if body.prompt is not None:
        prompt, special = body.prompt, body.add_special_tokens is not False
        return await off_the_loop(len(prompt), lambda: model.prompts.completion(prompt, add_special_tokens=special))
    conversation = body.conversation(served.name)
    written = await prompt_of(
        model,
        served.settings.model,
        conversation,
        conversation.tools or [],
        None,
        add_special_tokens=body.add_special_tokens is True,
    )
    return written.ids


async def detokenize(served: ServedModel, request: Request) -> Response:
    """Token ids → text, special tokens spelled out."""
    body = await DetokenizeBody.from_http_request(request, None)
    model = served.get(body.model)

    def decode() -> str:
        for i, token in enumerate(body.tokens):
            if token > _LARGEST_ID or model.prompts.tokenizer.id_to_token(token) is None:
                raise InvalidRequest(f"'tokens[{i}]' is {token}, which is no token of the model.", param="tokens")
        stream = model.detokenizer.stream(skip_special_tokens=False, keep_leading_space=False)
        return "".join([stream.push(token) for token in body.tokens]) + stream.finish()

    return JSONResponse({"prompt": await off_the_loop(len(body.tokens), decode)})


_LARGEST_ID = 2**32 - 1
"""That `tokenizers` takes."""

DIALECT = Dialect("Tokenizer (vLLM)", "", error_response, OpenAIError)

ENDPOINTS = (
    Endpoint(
        DIALECT,
        "POST",
        "/tokenize",
        "tokenize",
        "Turn a prompt or a conversation into token ids.",
        tokenize,
        body=TokenizeBody,
        examples={
            "prompt": {"prompt": "The capital of France is", "return_token_strs": True},
            "messages": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
        },
        answer_type=Tokenized,
    ),
    Endpoint(
        DIALECT,
        "POST",
        "/detokenize",
        "detokenize",
        "Turn token ids into text.",
        detokenize,
        body=DetokenizeBody,
        examples={"plain": {"tokens": [504, 3575, 282, 4649, 314]}},
        answer_type=Detokenized,
    ),
)
