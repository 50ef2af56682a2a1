"""The words that all rooms share: what is asked of an executor, and what it answers.

Everything here is plain data: immutable, picklable, free of any dialect and of any executor, and cheap to import (no
torch, no transformers). A dialect builds a `GenerationRequest`; an executor answers it with `TokenDelta`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

from guidance_core.tool_format import ToolFormat

FinishReason = Literal["stop", "length"]
"""Why a choice ended.

``stop``: an end-of-sequence or stop token was sampled, or the grammar can go no further; under a grammar the answer
is then *in* the grammar. ``length``: cut off by ``max_tokens`` or by the context, or, under a grammar, by a stop token
where the grammar does not end. Failures are exceptions (`errors`), never finish reasons.
"""

GrammarKind = Literal[
    "json_schema", "json_object", "regex", "choice", "lark", "gbnf", "llguidance", "tools", "reasoning"
]

LoadLoraWeights = Literal["auto", "never", "always"]
"""When an adapter's weights are read: where they are not loaded; never, so that the request fails where they are not
loaded; or again, even where they are. llgtrt's names."""

GrammarRoute = Literal["exact", "rewritten", "checked"]
"""How a grammar stands to what the client wrote.

``exact``: llguidance takes it as it is. ``rewritten``: parts were replaced by equivalents that llguidance takes.
``checked``: the grammar allows more than the client's schema, so that a whole answer is only right once it satisfies
`Grammar.check`.
"""


@dataclass(frozen=True, slots=True)
class MessageCheck:
    """What is left to check of a message that may call functions.

    Attributes:
        tool_format: how calls are written.
        functions: each function with the JSON schema of its arguments, or None where the grammar holds all of it.
        free_text: a message without calls is any text. Otherwise it has a form of its own, and only a message that
            begins with a call of one of the functions has calls.
        answer: the JSON schema of a message without calls, or None where nothing of it is left to check.
    """

    tool_format: ToolFormat
    functions: tuple[tuple[str, str | None], ...]
    free_text: bool
    answer: str | None


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint that has been validated against the model's tokenizer.

    Attributes:
        source: llguidance's serialised grammar (a JSON object with ``grammars``, or Lark text), as
            `llguidance.LLMatcher` takes it.
        kind: what the client wrote, so that an executor which cannot run every kind can refuse by name.
        definition: the client's own text (schema as canonical JSON, regex, Lark, or choices as JSON), for executors
            that have a guided decoding of their own.
        key: content hash of ``source``; equal keys mean equal grammars.
        route: see `GrammarRoute`.
        check: on the route ``checked``, the JSON schema that a whole answer must validate against, or what must hold
            of a message that may call functions; else None.
        notes: what was rewritten or is left to the check, a sentence each, naming the place in the schema.
        gap_after_thoughts: where thoughts come first: line breaks right after them are no part of the answer.
    """

    source: str
    kind: GrammarKind
    definition: str
    key: str
    route: GrammarRoute = "exact"
    check: str | MessageCheck | None = None
    notes: tuple[str, ...] = ()
    gap_after_thoughts: bool = True


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A low-rank adapter (LoRA) that a request wants applied to the model.

    Attributes:
        name: as clients know it.
        path: absolute path of its folder, in PEFT's format.
        load: see `LoadLoraWeights`.
    """

    name: str
    path: str
    load: LoadLoraWeights = "auto"


@dataclass(frozen=True, slots=True, eq=False)
class PromptImage:
    """An image of a prompt, as the model takes it. The arrays are not to be changed.

    Attributes:
        positions: int32 ``[features]``, rising: of its placeholder tokens in the prompt.
        inputs: of the model's vision part, by the model's own names (``pixel_values``, …).
        key: SHA-256 of ``inputs``: images with equal keys are the same to the model.
    """

    positions: npt.NDArray[np.int32]
    inputs: Mapping[str, npt.NDArray[Any]]
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. Every field is honoured or the request is refused.

    The order of operations on the logits of a row is: ``logit_bias``, penalties, ``min_tokens`` (end tokens forbidden),
    ``bad_token_ids``, grammar mask, ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``typical_p``, draw. A grammar
    that allows nothing but what ``min_tokens`` or ``bad_token_ids`` forbid wins over them, and so do the tokens that it
    forces.

    Attributes:
        max_tokens: most tokens to answer per choice; forced tokens count. 0 answers nothing, for who only wants
            ``prompt_logprobs``.
        min_tokens: no end-of-sequence or stop token before this many tokens.
        n: number of choices (0 … n-1).
        temperature: 0 is greedy (ties go to the lowest token id).
        top_k: keep the k likeliest; 0 keeps all.
        top_p: nucleus, in (0, 1]; 1 keeps all.
        min_p: keep what has at least this share of the likeliest token's probability, in [0, 1]; 0 keeps all.
        typical_p: keep the tokens whose surprise is nearest to the distribution's entropy, until they have this
            probability together (locally typical sampling, https://arxiv.org/abs/2202.00666), in (0, 1]; 1 keeps all.
        repetition_penalty: > 0; divides positive and multiplies negative logits of tokens in the prompt or the answer
            (CTRL, as Hugging Face and vLLM define it); 1 is off.
        presence_penalty: subtracted once from the logits of tokens in the answer so far (OpenAI).
        frequency_penalty: subtracted once per occurrence in the answer so far (OpenAI).
        logit_bias: token id → added to its logit.
        seed: choice i draws from a generator of its own, a function of (seed, i) only, so that an answer does not
            depend on its batch mates; None draws a fresh seed.
        logprobs: None for none, 0 for the chosen token's only, k for the k likeliest tokens besides it. They are the
            log-softmax of the model's raw logits: before bias, penalties, mask and temperature.
        prompt_logprobs: the same of the prompt's tokens, after the first: None for none, 0 for the tokens' own only,
            k for the k likeliest besides.
        stop_token_ids: tokens that end a choice besides the model's own end tokens; never part of the answer.
        ignore_eos: the model's own end tokens do not end the answer (they may still be sampled).
        bad_token_ids: sequences of at least one token that must not come in the answer: the last token of each is
            forbidden where the others are the answer's last ones.
    """

    max_tokens: int
    min_tokens: int = 0
    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    bad_token_ids: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request to an executor: a prompt, how to sample, and what the answer must be.

    Attributes:
        request_id: unique among the requests in flight.
        prompt_ids: the prompt's token ids, at least one.
        sampling: see `SamplingParams`.
        grammar: the constraint on the answer (from its first token), or None.
        stop: stop strings. Executors leave them to `output`, which finds them in tokens' text and in text alike.
        complete: the answer must end inside the grammar within ``max_tokens``: as the tokens run out, the mask narrows
            to what still leads to an end. Only with a grammar.
        token_ids: the answer's tokens are asked for; an executor that only has their text refuses.
        measure_mass: measure `GuidanceTimes.allowed_mass` at every sampled token. It costs another pass over the
            logits; executors may measure it now and then without being asked.
        lora: the adapter to answer with, or None for the model as it is.
        priority: of the requests that wait, those with the lowest number start first, in the order in which they came.
        images: of the prompt, in the order of their places; only for executors that take them (`Executor.no_images`).
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    grammar: Grammar | None = None
    stop: tuple[str, ...] = ()
    complete: bool = False
    token_ids: bool = False
    measure_mass: bool = False
    lora: LoraAdapter | None = None
    priority: int = 0
    images: tuple[PromptImage, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probabilities at one position of the answer, or of the prompt.

    Attributes:
        token_id: the token that is there.
        logprob: its natural-log probability (finite unless the model itself gives it none).
        top: as many of the likeliest tokens as were asked for, as (token id, logprob), likeliest first; the token that
            is there need not be among them.
        rank: only in the prompt: how many tokens are at least as likely, itself included; 1 is the likeliest.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class GuidanceTimes:
    """What guidance did for one delta.

    Attributes:
        forced_tokens: how many of the delta's tokens the grammar forced (appended without sampling).
        mask_seconds: time spent computing this sequence's masks; where a batch is filled together, the batch's time
            divided by its rows.
        wait_seconds: the part of it that was not hidden behind the forward pass.
        allowed_mass: probability that the model itself gave to what the grammar allowed at the sampled token, in
            [0, 1]; None where it was not measured.
    """

    forced_tokens: int = 0
    mask_seconds: float = 0.0
    wait_seconds: float = 0.0
    allowed_mass: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """The next piece of one choice.

    End-of-sequence and stop tokens are never in ``token_ids`` (except end tokens under ``ignore_eos``), but each one
    that was sampled counts as a completion token: see ``stop_token_id``.

    Attributes:
        index: which choice.
        token_ids: new tokens, possibly none (in a last delta), several where tokens were forced.
        text: only from executors that answer text instead of token ids; then ``token_ids`` is empty.
        logprobs: one per token in ``token_ids`` where ``SamplingParams.logprobs`` asks for them.
        finish_reason: set on a choice's last delta, exactly once.
        stop_token_id: the token that ended the choice, where one did.
        stop_logprob: its log-probabilities, where ``SamplingParams.logprobs`` asks for them and the executor has them.
        guidance: only under a grammar.
        cached_tokens: on the first delta of a choice: how many prompt tokens came out of the prefix cache.
        prompt_logprobs: on the first delta of choice 0, where `SamplingParams` asks for them: one per token of the
            prompt after the first. Other choices' deltas may come before it.
    """

    index: int
    token_ids: tuple[int, ...] = ()
    text: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    stop_logprob: TokenLogprob | None = None
    guidance: GuidanceTimes | None = None
    cached_tokens: int | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
