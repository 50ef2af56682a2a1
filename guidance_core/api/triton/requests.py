"""A checked body → a generation request."""

from __future__ import annotations

import uuid

from pydantic_core import from_json

from guidance_core.api.answer import Answer
from guidance_core.api.attempt import TextOptions
from guidance_core.api.bad_words import bad_token_ids
from guidance_core.api.constrained import compiled
from guidance_core.api.resampling import CheckBudget
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.api.triton.bodies import TritonGenerateBody
from guidance_core.errors import InvalidGrammar, InvalidRequest
from guidance_core.generation import GenerationRequest, SamplingParams
from guidance_core.grammar import constraint
from guidance_core.grammar.constraint import Constraint
from guidance_core.prompt import PromptTokenizer


async def answer_of(served: ServedModel, model: LoadedModel, body: TritonGenerateBody) -> Answer:
    """What to generate for a body.

    Raises:
        RequestError: as `Executor.check`, or inputs that contradict each other.
    """
    settings = served.settings
    if body.num_return_sequences > settings.server.max_choices:
        raise InvalidRequest(
            f"'num_return_sequences' is {body.num_return_sequences}; at most {settings.server.max_choices} sequences "
            "are answered.",
            param="num_return_sequences",
        )
    seed = _one_of(body, "seed", "random_seed")
    min_tokens = _one_of(body, "min_tokens", "min_length")
    found = _constraint(body)
    grammar = None
    if found is not None:
        param = "guided_decoding_guide"
        grammar = (await compiled(model, settings.guidance, found, param=param, stream=body.stream)).grammar
    limits = model.executor.limits()
    if body.end_id is not None and body.end_id >= limits.vocab_size:
        raise InvalidRequest(
            f"'end_id' is {body.end_id}, but the model's tokens are 0 to {limits.vocab_size - 1}; -1 is for none.",
            param="end_id",
        )
    context = limits.max_model_len
    prompt_ids = await off_the_loop(
        len(body.text_input), lambda: model.prompts.completion(body.text_input, context=context)
    )
    # TensorRT-LLM's kernels: neither top-k nor top-p is greedy, and top-k alone keeps all of its k.
    greedy = body.temperature == 0 or (body.top_k == 0 and body.top_p == 0)
    request = GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompt_ids=prompt_ids,
        sampling=SamplingParams(
            max_tokens=body.max_tokens,
            min_tokens=min_tokens or 0,
            n=body.num_return_sequences,
            temperature=0.0 if greedy else body.temperature,
            top_k=body.top_k,
            top_p=body.top_p or 1.0,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            seed=seed or 0,
            logprobs=0 if body.return_log_probs else None,
            logit_bias=_logit_bias(model.prompts, body),
            stop_token_ids=() if body.end_id in (None, -1) else (body.end_id,),
            ignore_eos=body.end_id is not None,
            bad_token_ids=bad_token_ids(model.prompts, filter(None, body.bad_words), param="bad_words"),
        ),
        grammar=grammar,
        stop=tuple(word for word in body.stop_words if word),
    )
    text = TextOptions(keep_leading_space=True, include_stop_string=True)
    return Answer(model, request, text, CheckBudget(settings.guidance.check_attempts, settings.guidance.check_tokens))


def _one_of(body: TritonGenerateBody, name: str, older: str) -> int | None:
    value: int | None = getattr(body, name)
    old: int | None = getattr(body, older)
    if value is not None and old is not None:
        raise InvalidRequest(f"{older!r} is the older name of {name!r}: give one of them.", param=older)
    return old if value is None else value


def _logit_bias(prompts: PromptTokenizer, body: TritonGenerateBody) -> dict[int, float]:
    """Token id → what is added to its logit: a word's weight for each of its tokens, once per occurrence.

    This is what the ``preprocessing`` model of TensorRT-LLM's backend does (``_get_embedding_bias``), except that it
    also weighs the special tokens that a tokenizer adds to a text.

    Raises:
        InvalidRequest: not as many weights as words.
    """
    words, weights = body.embedding_bias_words, body.embedding_bias_weights
    if not any(words) and not weights:
        return {}
    if len(words) != len(weights):
        raise InvalidRequest(
            f"'embedding_bias_words' has {len(words)} words and 'embedding_bias_weights' {len(weights)} weights: give "
            "one weight for each word.",
            param="embedding_bias_weights",
        )
    bias: dict[int, float] = {}
    for word, weight in zip(words, weights, strict=True):
        for token_id in prompts.tokenizer.encode(word, add_special_tokens=False).ids:
            bias[token_id] = bias.get(token_id, 0.0) + weight
    return bias


def _constraint(body: TritonGenerateBody) -> Constraint | None:
    kind, guide = body.guided_decoding_guide_type, body.guided_decoding_guide
    if kind is None:
        if guide is not None:
            raise InvalidRequest(
                "'guided_decoding_guide' needs 'guided_decoding_guide_type': json_schema, regex or ebnf_grammar.",
                param="guided_decoding_guide_type",
            )
        return None
    if kind == "json":
        if guide:
            raise InvalidRequest(
                "'guided_decoding_guide' is given, but the type 'json' means any JSON; for a schema, the type is "
                "'json_schema'.",
                param="guided_decoding_guide",
            )
        return constraint.json_schema(True)
    if guide is None:
        raise InvalidRequest(
            f"'guided_decoding_guide' is missing: the type {kind!r} needs it.", param="guided_decoding_guide"
        )
    match kind:
        case "json_schema":
            return constraint.json_schema(_parsed(guide))
        case "regex":
            return constraint.regex(guide)
        case "ebnf_grammar":
            return constraint.ebnf(guide)


def _parsed(schema: str) -> object:
    try:
        return from_json(schema, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidGrammar(f"'guided_decoding_guide' is not valid JSON: {error}.") from None
