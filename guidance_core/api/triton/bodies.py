"""The request body: the inputs of TensorRT-LLM's models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from guidance_core.api.openai.bodies import RepetitionPenalty, RequestBody, Strings
from guidance_core.api.openai.refused_fields import Refused
from guidance_core.errors import InvalidRequest

_MAX_BIAS = 1e30
"""Decides anything by far, and sums of it are finite in FP32, too."""


def _one_or_many(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        raise PydanticCustomError("numbers_type", "must be a number, or a list of numbers")
    return value if isinstance(value, list) else [value]


_Weights = Annotated[
    list[Annotated[float, Field(ge=-_MAX_BIAS, le=_MAX_BIAS)]],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "number"}]}),
]

_NO_BEAMS = "there is no beam search; use num_return_sequences"
_BY_NAME = "adapters are chosen by name: send 'model' or 'lora_model' to /v1/completions"
_TEXT_ONLY = "leave it out; images go to /v1/chat/completions"
_REFUSED: dict[str, Refused] = {
    "beam_width": Refused((1,), _NO_BEAMS),
    "decoder_text_input": Refused(("",), "the model is decoder-only; leave it out"),
    "early_stopping": Refused((False,), _NO_BEAMS),
    "image_bytes_input": Refused(instead=_TEXT_ONLY),
    "image_input": Refused(instead=_TEXT_ONLY),
    "image_url_input": Refused(instead=_TEXT_ONLY),
    "length_penalty": Refused((0, 0.0, 1, 1.0), _NO_BEAMS),
    "lora_config": Refused(instead=_BY_NAME),
    "lora_task_id": Refused(instead=_BY_NAME),
    "lora_weights": Refused(instead=_BY_NAME),
    "num_draft_tokens": Refused((0,), "there is no speculative decoding"),
    "prompt_embedding_table": Refused(instead="send the prompt as text"),
    "prompt_vocab_size": Refused(instead="send the prompt as text"),
    "return_context_logits": Refused((False,)),
    "return_generation_logits": Refused((False,), "use return_log_probs"),
    "return_perf_metrics": Refused((False,), "/metrics has them"),
    "use_draft_logits": Refused((False,), "there is no speculative decoding"),
    "video_bytes_input": Refused(),
}

GuideType = Literal["json", "json_schema", "regex", "ebnf_grammar"]


class TritonGenerateBody(RequestBody):
    """`POST /v2/models/{model}/generate` and `…/generate_stream`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TritonGenerateRequest")

    id: str | None = Field(None, description="Given back in the answer.")
    text_input: str = Field(min_length=1, description="The prompt.")
    max_tokens: int = Field(ge=1, description="Most tokens to answer per sequence.")
    stop_words: Strings = Field(default_factory=list, description="Strings that end the answer, and are part of it.")
    bad_words: Strings = Field(default_factory=list, description="Words that do not come in the answer.")
    embedding_bias_words: Strings = Field(
        default_factory=list, description="Words whose tokens, wherever they come, are more or less likely."
    )
    embedding_bias_weights: _Weights = Field(
        default_factory=list, description="For each of these words: what is added to the logits of its tokens."
    )
    end_id: int | None = Field(
        None, ge=-1, description="The token that ends the answer, instead of the model's own; -1 for none."
    )
    pad_id: int | None = Field(None, ge=-1, description="Accepted; there is no padding.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens.")
    top_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Sample from the likeliest tokens that have this share together. Without it and without `top_k`, "
        "the likeliest token is taken.",
    )
    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest token.")
    repetition_penalty: RepetitionPenalty = Field(1.0, description="Above 1, tokens seen before become less likely.")
    presence_penalty: float = Field(0.0, ge=-_MAX_BIAS, le=_MAX_BIAS)
    frequency_penalty: float = Field(0.0, ge=-_MAX_BIAS, le=_MAX_BIAS)
    min_tokens: int | None = Field(None, ge=0, description="The answer ends before only where its constraint must.")
    min_length: int | None = Field(None, ge=0, description="Older name of `min_tokens`.")
    seed: int | None = Field(None, ge=0, lt=2**64, description="The same seed gives the same answer; 0 if not given.")
    random_seed: int | None = Field(None, ge=0, lt=2**64, description="Older name of `seed`.")
    num_return_sequences: int = Field(1, ge=1, description="How many answers.")
    exclude_input_in_output: bool | None = Field(
        None, description="Answer without the prompt; by default only streams and guided answers are without it."
    )
    return_log_probs: bool = Field(False, description="Answer the logprobs of the tokens, and their sum.")
    return_num_input_tokens: bool = Field(False, description="Answer how many tokens the prompt has.")
    return_num_output_tokens: bool = Field(False, description="Answer how many tokens the answer has.")
    stream: bool = Field(False, description="Answer piece by piece; only with `generate_stream`.")
    guided_decoding_guide_type: GuideType | None = Field(None, description="What the answer must be.")
    guided_decoding_guide: str | None = Field(
        None, description="The JSON schema, regular expression or grammar (GBNF or Lark), as text."
    )

    @classmethod
    def refused(cls) -> Mapping[str, Refused]:
        """See the base class."""
        return _REFUSED

    @classmethod
    def parse(cls, body: object) -> Self:
        """Check a parsed body. To Triton it is all the same whether an input lies in ``parameters`` or beside it.

        Raises as the base class.
        """
        if isinstance(body, dict):
            body = {name: _scalar(value) for name, value in _flat(body).items()}
        return super().parse(body)


class IndexBody(RequestBody):
    """`POST /v2/repository/index`; it may be empty."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TritonRepositoryIndexRequest")

    ready: bool = Field(False, description="Only what can be asked now.")


def _flat(body: dict[str, Any]) -> dict[str, Any]:
    parameters = body.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise InvalidRequest("'parameters' must be an object.", param="parameters")
    others = {name: value for name, value in body.items() if name != "parameters"}
    if twice := sorted(parameters.keys() & others.keys()):
        raise InvalidRequest(f"{twice[0]!r} is given twice: in 'parameters' and beside it.", param=twice[0])
    return {**others, **parameters}


def _scalar(value: Any) -> Any:
    """A tensor of one element is that element."""
    while isinstance(value, list) and len(value) == 1 and value[0] is not None:
        value = value[0]
    return value
