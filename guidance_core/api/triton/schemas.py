"""What answers look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class TritonError(BaseModel):
    """A failure as Triton writes it."""

    error: str


class TritonGenerated(BaseModel):
    """Outputs; of several sequences each is a list."""

    id: str | None = Field(None, description="The request's, if it has one.")
    model_name: str
    model_version: str
    sequence_start: bool
    sequence_end: bool
    sequence_id: int
    batch_index: int
    sequence_index: int | list[int]
    text_output: str | list[str]
    finish_reason: Literal["stop", "length"] | list[Literal["stop", "length"]] | None = Field(
        None, description="Only of the last response."
    )
    cum_log_probs: float | list[float] | None = Field(None, description="Only with `return_log_probs`.")
    output_log_probs: float | list[float] | None = Field(
        None, description="Only with `return_log_probs`: of all sequences, one after the other."
    )
    num_input_tokens: int | None = Field(None, description="Only with `return_num_input_tokens`.")
    num_output_tokens: int | list[int] | None = Field(None, description="Only with `return_num_output_tokens`.")


class TritonServer(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TritonTensor(BaseModel):
    """An input or an output."""

    name: str
    datatype: str
    shape: list[int]


class TritonModel(BaseModel):
    """The model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TritonTensor]
    outputs: list[TritonTensor]


class TritonTensorConfig(BaseModel):
    """An input or an output."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool | None = Field(None, description="Of inputs.")


class TritonModelConfig(BaseModel):
    """The model's configuration."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int
    input: list[TritonTensorConfig]
    output: list[TritonTensorConfig]
    model_transaction_policy: dict[str, bool]


class TritonModelState(BaseModel):
    """The model by one of its names."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str
