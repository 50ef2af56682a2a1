"""Every setting, documented once.

A setting is read from JSON5 files (merged in order), then from environment variables named
``GUIDED_TRTLLM_<SECTION>__<FIELD>`` (values are JSON5, or plain text for strings). Unknown keys are errors.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """Which model is served, and under which name."""

    tag: str = Field(
        "smollm2-135m-instruct:latest",
        description="Tag in the Bento model store. The default model packs itself when it is missing.",
    )
    served_name: str | None = Field(
        None, description="Name that clients send as `model`; by default the tag's name without version."
    )
    chat_template: str | None = Field(
        None, description="File with a Jinja chat template to use instead of the model's own."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the checkpoint.")


class TorchSettings(_Section):
    """The embedded executor."""

    device: str = Field("auto", description="`cpu`, `cuda`, `cuda:1`, …; `auto` takes a GPU if there is one.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="`auto`: bfloat16 where the device computes in it natively, float32 elsewhere."
    )
    max_batch_size: int = Field(32, ge=1, le=1024, description="Most sequences in the running batch (KV cache slots).")
    max_model_len: int | None = Field(
        None, ge=16, description="Most tokens of prompt and answer; by default the model's own, at most 8192."
    )
    max_num_tokens: int = Field(256, ge=16, description="Most tokens in one forward pass: the size of a prefill chunk.")
    num_threads: int | None = Field(None, ge=1, description="CPU threads of a forward pass; by default one per core.")
    prefix_cache: bool = Field(True, description="Reuse the KV cache of a prompt's longest known prefix.")
    packed_linear: bool = Field(
        True, description="On CPU: repack linear layers for oneDNN (faster, same results ± rounding)."
    )
    start_timeout: float = Field(300.0, gt=0, description="Seconds that loading may take.")
    step_timeout: float = Field(
        60.0, gt=0, description="Seconds without a finished step after which it counts as hung."
    )


class GuidanceSettings(_Section):
    """Grammars: compiling and enforcing them."""

    threads: int | None = Field(None, ge=1, description="llguidance's threads; by default one per core, at most 8.")
    forced_tokens: bool = Field(True, description="Append tokens that the grammar forces without sampling them.")
    cache_size: int = Field(256, ge=0, description="Compiled grammars kept for requests that come again.")
    max_grammar_bytes: int = Field(1_000_000, ge=1, description="Longest grammar or schema accepted, in bytes.")
    initial_lexer_fuel: int | None = Field(None, ge=1, description="llguidance: fuel for building the lexer.")
    step_lexer_fuel: int | None = Field(None, ge=1, description="llguidance: lexer fuel for one mask.")
    step_max_items: int | None = Field(None, ge=1, description="llguidance: Earley items for one mask.")
    max_lexer_states: int | None = Field(None, ge=1, description="llguidance: most lexer states.")
    max_grammar_size: int | None = Field(None, ge=1, description="llguidance: most symbols in a grammar.")
    max_items_in_row: int | None = Field(None, ge=1, description="llguidance: most Earley items in a row.")


class ServerSettings(_Section):
    """Admission and HTTP."""

    max_queue_size: int = Field(256, ge=0, description="Most sequences waiting for a slot; one more gets a 429.")
    max_choices: int = Field(32, ge=1, description="Largest `n` of one request.")
    max_body_bytes: int = Field(16_000_000, ge=1, description="Largest request body.")


class Settings(_Section):
    """All of it."""

    executor: Literal["torch"] = Field("torch", description="What runs the model.")
    model: ModelSettings = ModelSettings()
    torch: TorchSettings = TorchSettings()
    guidance: GuidanceSettings = GuidanceSettings()
    server: ServerSettings = ServerSettings()


def load_settings() -> Settings:
    """The settings of this process."""
    return Settings()
