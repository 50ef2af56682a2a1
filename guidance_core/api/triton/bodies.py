"""The request body: the inputs of TensorRT-LLM's models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from typing_extensions import Self

from guidance_core.api.openai.bodies import RequestBody, Strings
from guidance_core.errors import InvalidRequest

_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "beam_width": (1,),
    "decoder_text_input": ("",),
    "early_stopping": (False,),
    "embedding_bias_weights": ([],),
    "embedding_bias_words": ("", []),
    "image_bytes_input": (),
    "image_input": (),
    "image_url_input": (),
    "length_penalty": (0, 0.0, 1, 1.0),
    "lora_config": (),
    "lora_task_id": (),
    "lora_weights": (),
    "num_draft_tokens": (0,),
    "prompt_embedding_table": (),
    "prompt_vocab_size": (),
    "return_context_logits": (False,),
    "return_generation_logits": (False,),
    "return_perf_metrics": (False,),
    "use_draft_logits": (False,),
    "video_bytes_input": (),
}
"""With which values they may be sent, because these ask for nothing: a penalty on length is about beams."""

GuideType = Literal["json", "json_schema", "regex", "ebnf_grammar"]


class TritonGenerateBody(RequestBody):
    """`POST /v2/models/{model}/generate` and `…/generate_stream`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TritonGenerateRequest")

    id: str | None = Field(None, description="Given back in the answer.")
    text_input: str = Field(min_length=1, description="The prompt.")
    max_tokens: int = Field(ge=1, description="Most tokens to answer per sequence.")
    stop_words: Strings = Field(default_factory=list, description="Strings that end the answer, and are part of it.")
    bad_words: Strings = Field(default_factory=list, description="Words that do not come in the answer.")
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
    repetition_penalty: float = Field(1.0, gt=0, description="Above 1, tokens seen before become less likely.")
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
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
    def unsupported(cls) -> Mapping[str, tuple[object, ...]]:
        """See the base class."""
        return _UNSUPPORTED

    @classmethod
    def parse(cls, body: object) -> Self:
        """Check a parsed body. To Triton it is all the same whether an input lies in ``parameters`` or beside it.

        Raises as the base class.
        """
        if isinstance(body, dict):
            body = {name: _scalar(value) for name, value in _flat(body).items()}
        return super().parse(body)


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
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value
