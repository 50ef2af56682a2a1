"""What the answer must be: `response_format`, and what clients of vLLM, SGLang and llgtrt send for the same.

Each of these fields becomes one `Constraint`; a request may have one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from guidance_core.errors import InvalidGrammar, InvalidRequest
from guidance_core.grammar import constraint
from guidance_core.grammar.constraint import Constraint

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)
JsonSchema = dict[str, Any] | bool


class TextFormat(BaseModel):
    """Any text."""

    model_config = _STRICT
    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """Any JSON object, or one of a schema, as `huggingface_hub` writes it."""

    model_config = _STRICT
    type: Literal["json_object"]
    value: JsonSchema | None = Field(None, description="A schema that the object validates against.")


Strictness = Annotated[
    bool | Literal["exact"] | None,
    Field(
        description="The schema is enforced in full, whatever is said here. `exact` refuses a schema of which a part "
        "can only be checked on the whole answer, and names the part."
    ),
]


class NamedSchema(BaseModel):
    """A JSON schema as OpenAI wraps it. Without one it means any JSON object, as llgtrt has it, unless it is strict."""

    model_config = _STRICT
    name: str | None = Field(None, pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: JsonSchema | None = Field(None, alias="schema")
    strict: Strictness = None


class JsonSchemaFormat(BaseModel):
    """A JSON value that validates against a schema."""

    model_config = _STRICT
    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(BaseModel):
    """Text that matches a regular expression as a whole."""

    model_config = _STRICT
    type: Literal["regex"]
    regex: str


class LarkFormat(BaseModel):
    """Text in a Lark grammar."""

    model_config = _STRICT
    type: Literal["lark_grammar"]
    lark_grammar: str


class LlguidanceFormat(BaseModel):
    """Text in a grammar as llguidance serialises it."""

    model_config = _STRICT
    type: Literal["llguidance"]
    grammar: dict[str, Any] | str


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | LarkFormat | LlguidanceFormat,
    Field(discriminator="type"),
]


class StructuredOutputs(BaseModel):
    """VLLM's object with one constraint; the names are vLLM's."""

    model_config = _STRICT
    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    strict: Strictness = None


class ConstraintFields(BaseModel):
    """The fields of a request that constrain its answer."""

    response_format: ResponseFormat | None = Field(
        None, description="What the answer must be: text, JSON, JSON of a schema, a regex, or a grammar."
    )
    structured_outputs: StructuredOutputs | None = Field(None, description="The same, as vLLM's clients write it.")
    guided_json: dict[str, Any] | str | None = Field(None, description="The same, as vLLM's older clients write it.")
    guided_strict: Strictness = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = Field(None, description="Lark, or llama.cpp's GBNF.")
    guided_decoding_backend: str | None = Field(None, description="Accepted; llguidance enforces every constraint.")
    regex: str | None = Field(None, description="The same, as SGLang's clients write it.")
    ebnf: str | None = Field(None, description="Lark, or llama.cpp's GBNF, as SGLang's clients write it.")


@dataclass(frozen=True, slots=True)
class FieldConstraint:
    """A constraint and the field that it comes from."""

    constraint: Constraint
    param: str


def constraint_of(body: ConstraintFields) -> FieldConstraint | None:
    """The constraint of a request, or None.

    Raises:
        InvalidRequest: several that differ.
        InvalidGrammar: malformed; ``param`` names the field.
    """
    found: list[FieldConstraint] = []
    for param, make, value in _candidates(body):
        if value is None:
            continue
        try:
            found.append(FieldConstraint(make(value), param))
        except InvalidGrammar as error:
            raise InvalidGrammar(error.message, param=param) from None
    # Some clients write one constraint in the ways of several versions of a server at once.
    other = next((each for each in found if each.constraint != found[0].constraint), None)
    if other is not None:
        raise InvalidRequest(
            f"The answer can have one constraint, but {found[0].param!r} and {other.param!r} differ: leave out one.",
            param=other.param,
        )
    return found[0] if found else None


def _candidates(body: ConstraintFields) -> list[tuple[str, Callable[[Any], Constraint], Any]]:
    """(field, what makes a constraint of its value, its value or None)."""
    _check_strictness("guided_strict", body.guided_strict, "guided_json", body.guided_json)
    candidates: list[tuple[str, Callable[[Any], Constraint], Any]] = [
        ("guided_json", partial(_json_schema, strict=body.guided_strict), body.guided_json),
        ("guided_regex", constraint.regex, body.guided_regex),
        ("guided_choice", constraint.choice, body.guided_choice),
        ("guided_grammar", constraint.ebnf, body.guided_grammar),
        ("regex", constraint.regex, body.regex),
        ("ebnf", constraint.ebnf, body.ebnf),
    ]
    if (outputs := body.structured_outputs) is not None:
        _check_strictness("structured_outputs.strict", outputs.strict, "structured_outputs.json", outputs.json_)
        candidates += [
            ("structured_outputs.json", partial(_json_schema, strict=outputs.strict), outputs.json_),
            ("structured_outputs.regex", constraint.regex, outputs.regex),
            ("structured_outputs.choice", constraint.choice, outputs.choice),
            ("structured_outputs.grammar", constraint.ebnf, outputs.grammar),
            ("structured_outputs.json_object", _json_object, outputs.json_object or None),
        ]
    match body.response_format:
        case JsonObjectFormat(value=None):
            candidates.append(("response_format", _json_object, True))
        case JsonObjectFormat(value=schema):
            candidates.append(("response_format.value", constraint.json_schema, schema))
        case JsonSchemaFormat(json_schema=named):
            param = "response_format.json_schema.schema"
            make = partial(constraint.json_schema, exact=named.strict == "exact")
            if named.schema_ is not None:
                candidates.append((param, make, named.schema_))
            elif named.strict:
                raise InvalidRequest(
                    f"'strict' is about {param!r}, which is missing: give it.",
                    param=param,
                    code="missing_required_parameter",
                )
            else:
                candidates.append(("response_format", _json_object, True))
        case RegexFormat(regex=pattern):
            candidates.append(("response_format.regex", constraint.regex, pattern))
        case LarkFormat(lark_grammar=grammar):
            candidates.append(("response_format.lark_grammar", constraint.lark, grammar))
        case LlguidanceFormat(grammar=serialised):
            candidates.append(("response_format.grammar", constraint.llguidance, serialised))
    return candidates


def _json_object(_: bool) -> Constraint:
    return constraint.json_object()


def _json_schema(schema: dict[str, Any] | str, *, strict: bool | str | None) -> Constraint:
    """A schema as vLLM takes it: an object, or the text of one."""
    if isinstance(schema, str):
        try:
            schema = from_json(schema, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidGrammar(f"The schema is not valid JSON: {error}.") from None
    return constraint.json_schema(schema, exact=strict == "exact")


def _check_strictness(param: str, strict: bool | str | None, schema_param: str, schema: object) -> None:
    """Refuse a strictness without a schema that it could be about."""
    if strict is not None and schema is None:
        raise InvalidRequest(f"{param!r} is about {schema_param!r}, which is not given: leave it out.", param=param)
