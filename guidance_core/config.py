"""Every setting, documented once.

A setting is read from the JSON5 files that ``GUIDED_TRTLLM_CONFIG`` names (separated as in ``PATH``; merged in order,
the last one wins), then from environment variables named ``GUIDED_TRTLLM_<SECTION>__<FIELD>``, such as
``GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE=8`` or ``GUIDED_TRTLLM_EXECUTOR=torch``, then from ``bentoml serve``'s arguments,
such as ``--arg torch.max_batch_size=8``. ``null`` stands for no value; an object is written as JSON5. Unknown names and
bad values are errors.

``python -m guidance_core.config`` prints the settings in force as a JSON5 file, comments included (`print_config`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import json5
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from guidance_core.tool_format import ToolFormatName

PREFIX = "GUIDED_TRTLLM_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
ARGUMENT = "--arg"

Keys = tuple[str, ...]
"""Where a setting is: ``("torch", "max_batch_size")``, ``("executor",)``."""


class BadSettings(Exception):
    """Settings that cannot be used; the message has a line for each: where it is, what is wrong, what was meant."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _object_of_text(value: Any) -> Any:
    """An object as variables and arguments have it; what is none is left for pydantic to complain about."""
    if not isinstance(value, str):
        return value
    try:
        return json5.loads(value, allow_duplicate_keys=False)
    except ValueError:
        return value


_TextToObject = BeforeValidator(_object_of_text)


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
        None,
        description="File with a Jinja chat template, or the template itself, to use instead of the model's own; a "
        "file chat_template.j2 in the model's folder does the same.",
    )
    history_template: str | None = Field(
        None,
        description="File with a Liquid template, as openai_trtllm has them, to use instead of a chat template: it "
        "gets `items`, each with `identity` (System, User, Assistant, Tool), `content` and `name`.",
    )
    bos_token: str | None = Field(
        None,
        description="Token that begins prompts, in place of what the tokenizer adds by itself; empty, and none does. "
        "Chat templates get it as `bos_token`.",
    )
    eos_token: str | None = Field(
        None, description="Token that ends answers, in place of the model's own. Chat templates get it as `eos_token`."
    )
    n_vocab_override: int | None = Field(
        None,
        ge=1,
        description="Width of the logits of a model whose config.json is wrong about it (`vocab_size`). Executors "
        "`trtllm` and `triton`; `torch` asks the model itself, and refuses another width.",
    )
    json_start_token: str | None = Field(
        None,
        description="Special token that comes before tool calls that are plain JSON, such as `<|python_tag|>` of "
        "Llama 3; for the formats `llama3_json` and `json`.",
    )
    tool_format: ToolFormatName | None = Field(
        None,
        description="How the model writes tool calls: `hermes`, `llama3_json`, `mistral`, `mistral_args`, or `json`, a "
        "form that it is told in words; by default, what its chat template shows.",
    )
    json_schema_prompt: str = Field(
        "Answer with JSON that follows this JSON schema:\n{schema}",
        description="How a model is told of the schema that its answer will have to follow (`{schema}` stands for it), "
        "where its chat template has no variable `json_schema`. Empty, and it is not told.",
    )
    reasoning_budgets: Annotated[
        dict[Literal["minimal", "low", "medium", "high", "xhigh", "max"], int | None], _TextToObject
    ] = Field(
        {"minimal": 128, "low": 512, "medium": 2048, "high": 8192, "xhigh": None, "max": None},
        description="Most tokens of thought for each `reasoning_effort`; `null`, or one left out, is no limit.",
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


class TrtllmSettings(_Section):
    """The TensorRT-LLM executor; names as in llgtrt's runtime section."""

    guidance: Literal["auto", "batched", "engine", "processor"] = Field(
        "auto",
        description="How grammars are enforced: `batched` (our processor masks the whole batch; compiled engines), "
        "`engine` (TensorRT-LLM's own llguidance; checkpoints), `processor` (ours, request by request; checkpoints). "
        "`auto` is `batched` for compiled engines, `engine` for checkpoints.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="Of a checkpoint's weights.")
    max_batch_size: int = Field(
        128, ge=1, description="Most sequences in the running batch; a compiled engine's own limit where that is lower."
    )
    max_num_tokens: int = Field(8192, ge=1, description="Most tokens in one forward pass.")
    max_model_len: int | None = Field(
        None, ge=16, description="Most tokens of prompt and answer; by default the model's own."
    )
    scheduler_policy: Literal["auto", "max_utilization", "guaranteed_no_evict"] = Field(
        "auto",
        description="`guaranteed_no_evict`: a sequence starts only when it can end without being paused. "
        "`max_utilization`: it may be paused, and goes on later; compiled engines only. `auto` is `max_utilization` "
        "for compiled engines, `guaranteed_no_evict` for checkpoints.",
    )
    enable_chunked_context: bool = Field(
        True, description="Run long prompts in pieces, between other sequences' steps."
    )
    enable_kv_cache_reuse: bool = Field(True, description="Reuse the KV cache of a prompt's known prefix.")
    kv_cache_free_gpu_mem_fraction: float = Field(
        0.9, gt=0, lt=1, description="Share of the GPU memory left after loading that the KV cache takes."
    )
    kv_cache_max_tokens: int | None = Field(None, ge=1, description="Most tokens in the KV cache.")
    kv_cache_host_memory_megabytes: int = Field(
        0, ge=0, description="Host memory that KV cache blocks are offloaded to."
    )
    kv_cache_onboard_blocks: bool = Field(
        True, description="Bring offloaded blocks back to the GPU before they are reused."
    )
    kv_cache_dtype: Literal["auto", "fp8", "nvfp4"] = Field(
        "auto", description="Of a checkpoint's KV cache; a compiled engine has its own."
    )
    secondary_offload_min_priority: int | None = Field(
        None, ge=0, le=100, description="Only KV cache blocks with a higher priority are offloaded."
    )
    enable_batch_size_tuning: bool = Field(
        True, description="Compiled engines: let the scheduler tune the batch size as it runs."
    )
    enable_max_num_tokens_tuning: bool = Field(
        True, description="Compiled engines: let the scheduler tune the token budget as it runs."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(1, ge=1, description="GPUs, or groups of them, that share the layers.")
    gpus_per_node: int | None = Field(None, ge=1, description="By default, what TensorRT-LLM finds.")
    orchestrator: Literal["mpi", "ray"] = Field(
        "mpi", description="What starts the processes of several GPUs; `ray` for checkpoints only."
    )
    overlap_scheduler: bool = Field(
        False,
        description="Checkpoints: prepare a step while the last one runs. Our processors then see each token too late, "
        "so requests that need them (seed, logprobs, min_p, typical_p, min_tokens, penalties, …) are refused.",
    )
    speculative: Annotated[dict[str, Any] | None, _TextToObject] = Field(
        None,
        description="Checkpoints: TensorRT-LLM's speculative decoding, such as `{decoding_type: 'NGram', "
        "max_draft_len: 4}`. Requests that need our processors are then refused.",
    )
    llm_args: Annotated[dict[str, Any], _TextToObject] = Field(
        {}, description="Further arguments of `tensorrt_llm.LLM`, by its own names; none that the settings above set."
    )
    step_timeout: float = Field(
        120.0, gt=0, description="Seconds without any progress on a request after which TensorRT-LLM counts as hung."
    )
    abort_timeout: float = Field(
        5.0, gt=0, description="Seconds after which an aborted sequence counts as gone even if nothing confirms it."
    )


class TritonSettings(_Section):
    """A Triton server that runs the model with TensorRT-LLM; the model's folder is needed for its tokenizer only."""

    url: str = Field("localhost:8001", description="Host and port of the server's gRPC endpoint.")
    model: str = Field(
        "tensorrt_llm",
        description="Name of a model there. The token-level one serves best; `ensemble`, `tensorrt_llm_bls` and the "
        "model of TensorRT-LLM's LLM API work too: which it is, the server is asked.",
    )
    max_model_len: int | None = Field(
        None, ge=16, description="The engine's max_seq_len; by default the context in the model's config.json."
    )
    max_concurrency: int = Field(
        256, ge=1, description="Most choices that the server is asked for at once; more wait here."
    )
    start_timeout: float = Field(300.0, gt=0, description="Seconds that the server is waited for at the start.")
    request_timeout: float | None = Field(
        None, gt=0, description="Seconds that an answer may take, from being sent to the server to its end."
    )
    response_timeout: float = Field(
        60.0, gt=0, description="Seconds without a token, the first one included, after which an answer is given up."
    )
    probe_interval: float = Field(5.0, gt=0, description="Seconds between questions whether the server is ready.")
    longest_backoff: float = Field(
        5.0, ge=0.1, description="Most seconds between attempts to reach a server that is gone; the first is after 0.1."
    )
    tls: bool = Field(False, description="Encrypt the connection.")
    tls_root_certificates: str | None = Field(
        None, description="PEM file with the certificates to trust; by default those that gRPC comes with."
    )
    tls_client_certificate: str | None = Field(
        None, description="PEM file with the certificate to show to the server, for mutual TLS."
    )
    tls_client_key: str | None = Field(None, description="PEM file with that certificate's key.")


class LoraSettings(_Section):
    """Low-rank adapters of the model, each a choice that clients have by its name."""

    folder: str | None = Field(
        None, description="Folder whose sub-folders are adapters in PEFT's format; without one there are none."
    )
    max_loaded: int = Field(
        8, ge=1, description="Most adapters in memory; one that no request uses makes room for another."
    )
    max_rank: int = Field(64, ge=1, description="Largest rank of an adapter.")


def _one_or_many(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class ImageSettings(_Section):
    """Images in requests, for models that take them. Those in data URLs need no `fetch`."""

    fetch: bool = Field(False, description="Fetch images from http and https URLs too.")
    hosts: Annotated[list[str], BeforeValidator(_one_or_many)] = Field(
        [],
        description="Hosts that images may be fetched from; with none named, any that has public addresses. A host "
        "that is named may have private ones. In variables, separated by commas.",
    )
    fetch_timeout: float = Field(10.0, gt=0, description="Seconds that fetching one image may take.")
    max_bytes: int = Field(10_000_000, ge=1, description="Largest image file, fetched or carried.")
    max_pixels: int = Field(40_000_000, ge=1, description="Largest image, in pixels: a small file can have many.")
    max_images: int = Field(16, ge=1, description="Most images of one request.")


class GuidanceSettings(_Section):
    """Grammars: compiling and enforcing them."""

    threads: int | None = Field(
        None,
        ge=1,
        description="llguidance's threads; by default one per core, at most 8; behind a CPU's forward pass, as many "
        "as torch.num_threads leaves idle.",
    )
    masks_ahead: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Fill masks behind the forward pass: auto does so on a GPU, and on a CPU where torch.num_threads "
        "leaves a core idle. Elsewhere a mask is only filled where its grammar cannot judge a token without it.",
    )
    forced_tokens: bool = Field(True, description="Append tokens that the grammar forces without sampling them.")
    cache_size: int = Field(256, ge=0, description="Compiled grammars kept for requests that come again.")
    check_attempts: int = Field(
        8, ge=1, description="Most answers generated for one choice whose schema is checked on the whole answer."
    )
    check_tokens: int = Field(
        8192, ge=0, description="After so many tokens in rejected answers, a choice gets no further attempt."
    )
    checked_streams: Literal["hold", "refuse"] = Field(
        "hold", description="Streams whose schema is checked on the whole answer: held back until then, or a 400."
    )
    held_stream_comments: float = Field(
        15.0, gt=0, description="Seconds between the SSE comments that keep a held stream's connection open."
    )
    max_grammar_bytes: int = Field(1_000_000, ge=1, description="Longest grammar or schema accepted, in bytes.")
    initial_lexer_fuel: int | None = Field(None, ge=1, description="llguidance: fuel for building the lexer.")
    step_lexer_fuel: int | None = Field(None, ge=1, description="llguidance: lexer fuel for one mask.")
    step_max_items: int | None = Field(None, ge=1, description="llguidance: Earley items for one mask.")
    max_lexer_states: int | None = Field(None, ge=1, description="llguidance: most lexer states.")
    max_grammar_size: int | None = Field(None, ge=1, description="llguidance: most symbols in a grammar.")
    max_items_in_row: int | None = Field(None, ge=1, description="llguidance: most Earley items in a row.")


def as_api_key(text: str) -> str:
    """A key, if it can be one.

    Raises:
        ValueError: it cannot be sent in a header; the message does not show it.
    """
    if re.fullmatch(r"[A-Za-z0-9._~+/=-]+", text) is None:  # RFC 6750, section 2.1
        raise ValueError("an API key consists of letters, digits and . _ ~ + / = - alone.")
    return text


def _some_or_none(value: Any) -> Any:
    if value is None:
        return ()
    keys = _one_or_many(value)
    if isinstance(value, str) and not keys:
        # A variable whose secret is missing must not open the service to everybody.
        raise ValueError("it holds no key. Leave it out where anybody may ask.")
    return keys


def _check_api_key(key: SecretStr) -> SecretStr:
    as_api_key(key.get_secret_value())
    return key


class ServerSettings(_Section):
    """Admission and HTTP."""

    api_keys: Annotated[
        tuple[Annotated[SecretStr, AfterValidator(_check_api_key)], ...], BeforeValidator(_some_or_none)
    ] = Field(
        (),
        description="API keys, one of which a request must carry as `Authorization: Bearer`, save for probes, metrics "
        "and the Swagger page. With none here and in no file, anybody may ask. In variables, separated by commas.",
    )
    api_key_file: str | None = Field(
        None, description="File with further API keys, one a line; read again whenever it changes."
    )
    max_queue_size: int = Field(
        256,
        ge=0,
        description="Most sequences waiting for a slot; one more gets a 429. So does one more request than "
        "these and the slots together that waits for its grammar to be compiled.",
    )
    max_choices: int = Field(32, ge=1, description="Largest `n` of one request.")
    max_body_bytes: int = Field(16_000_000, ge=1, description="Largest request body.")

    @property
    def needs_keys(self) -> bool:
        """Whether requests need an API key."""
        return bool(self.api_keys) or self.api_key_file is not None


class Settings(_Section):
    """All of it."""

    executor: Literal["torch", "trtllm", "triton"] = Field("torch", description="What runs the model.")
    model: ModelSettings = ModelSettings()
    torch: TorchSettings = TorchSettings()
    trtllm: TrtllmSettings = TrtllmSettings()
    triton: TritonSettings = TritonSettings()
    lora: LoraSettings = LoraSettings()
    images: ImageSettings = ImageSettings()
    guidance: GuidanceSettings = GuidanceSettings()
    server: ServerSettings = ServerSettings()


def load_settings(environment: Mapping[str, str] = os.environ, arguments: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process.

    Args:
        environment: its variables.
        arguments: of `bentoml serve` (``--arg``, ``--arg-file``), by dotted names.

    Raises:
        BadSettings: a file that cannot be read, an unknown name, or a bad value.
    """
    values: dict[str, Any] = {}
    origins: dict[Keys, str] = {}
    for name in filter(None, environment.get(CONFIG_VARIABLE, "").split(os.pathsep)):
        _merge(values, _read_file(Path(name)), origins, name, ())
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE:
            keys = tuple(variable[len(PREFIX) :].lower().split("__"))
            _merge(values, _nested(keys, environment[variable]), origins, variable, ())
    for name, value in (arguments or {}).items():
        _merge(values, _nested(tuple(name.split(".")), value), origins, ARGUMENT, ())
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_explain(tuple(map(str, problem["loc"])), problem, origins) for problem in error.errors()]
        raise BadSettings("\n".join(lines)) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = json5.loads(path.read_text(encoding="utf-8"), allow_duplicate_keys=False)
    except OSError as error:
        raise BadSettings(f"{path}: {error.strerror}. {CONFIG_VARIABLE} names it.") from None
    except ValueError as error:
        raise BadSettings(f"{path} is not valid JSON5: {error}") from None
    if not isinstance(content, dict):
        raise BadSettings(f"{path} must hold an object with settings, such as {{torch: {{max_batch_size: 8}}}}.")
    return content


def _nested(keys: Keys, value: Any) -> dict[str, Any]:
    """One setting as a file would have it; in text, ``null`` stands for no value."""
    nested: Any = None if value == "null" else value
    for key in reversed(keys):
        nested = {key: nested}
    settings: dict[str, Any] = nested
    return settings


def _merge(into: dict[str, Any], values: dict[str, Any], origins: dict[Keys, str], origin: str, above: Keys) -> None:
    """Add ``values`` to ``into``, section by section, and note in ``origins`` where each comes from."""
    for key, value in values.items():
        keys = (*above, key)
        if isinstance(value, dict) and key in into and not isinstance(into[key], dict):
            continue  # what stands there instead of a section is an error, which must not be lost
        origins[keys] = origin
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value, origins, origin, keys)
        else:
            into[key] = value


def _explain(keys: Keys, problem: Mapping[str, Any], origins: Mapping[Keys, str]) -> str:
    """One line on one problem that pydantic found."""
    while keys not in origins and len(keys) > 1:
        # pydantic goes on to name the branch of a union.
        keys = keys[:-1]
    origin = origins.get(keys, CONFIG_VARIABLE)
    from_variable = origin.startswith(PREFIX)
    name = ".".join(keys)
    where = origin if from_variable else f"{origin} {name}" if origin == ARGUMENT else f"{origin}: {name}"
    if problem["type"] == "extra_forbidden":
        nearest = _nearest(keys)
        write = _variable(nearest) if from_variable else ".".join(nearest)
        return f"{where}: there is no such setting. Did you mean {write}?"
    if problem["type"] == "model_type":
        return f"{where} is a section, not a setting: {problem['input']!r} must be an object."
    if keys[:2] == ("server", "api_keys"):
        return f"{where}: {problem['msg']}"  # what was written may be most of a key
    return f"{where}: {problem['msg']}, but it is {problem['input']!r}."


def _nearest(keys: Keys) -> Keys:
    """The setting that was most likely meant: the same field in another section, else the most similar name."""
    known = _known()
    same_field = [candidate for candidate in known if candidate[-1] == keys[-1]]
    names = {".".join(candidate): candidate for candidate in same_field or known}
    return names[difflib.get_close_matches(".".join(keys), names, n=1, cutoff=0.0)[0]]


def _known() -> list[Keys]:
    found: list[Keys] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            found += [(name, inner) for inner in section.model_fields]
        else:
            found.append((name,))
    return found


def _variable(keys: Keys) -> str:
    return PREFIX + "__".join(keys).upper()


if __name__ == "__main__":
    import signal

    from guidance_core.print_config import main

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # quiet where a reader such as `head` has had enough
    main()
