"""Writes Triton model repositories with the interfaces of TensorRT-LLM's backend, on stand-in models.

Inputs and outputs are those of https://github.com/NVIDIA/TensorRT-LLM/tree/main/triton_backend/all_models.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_MODELS = Path(__file__).parent / "models"

# name, data type, dimensions; a name that ends with "!" is required
Tensors = Sequence[tuple[str, str, str]]

TOKEN_INPUTS: Tensors = (
    ("input_ids", "INT32", "-1"),
    ("input_lengths!", "INT32", "1"),
    ("request_output_len!", "INT32", "1"),
    ("num_return_sequences", "INT32", "1"),
    ("end_id", "INT32", "1"),
    ("pad_id", "INT32", "1"),
    ("stop_words_list", "INT32", "2, -1"),
    ("bad_words_list", "INT32", "2, -1"),
    ("embedding_bias", "FP32", "-1"),
    ("beam_width", "INT32", "1"),
    ("temperature", "FP32", "1"),
    ("runtime_top_k", "INT32", "1"),
    ("runtime_top_p", "FP32", "1"),
    ("len_penalty", "FP32", "1"),
    ("repetition_penalty", "FP32", "1"),
    ("min_tokens", "INT32", "1"),
    ("presence_penalty", "FP32", "1"),
    ("frequency_penalty", "FP32", "1"),
    ("seed", "UINT64", "1"),
    ("return_log_probs", "BOOL", "1"),
    ("return_num_output_tokens", "BOOL", "1"),
    ("exclude_input_in_output", "BOOL", "1"),
    ("stop", "BOOL", "1"),
    ("streaming", "BOOL", "1"),
    ("lora_task_id", "UINT64", "1"),
    ("guided_decoding_guide_type", "STRING", "1"),
    ("guided_decoding_guide", "STRING", "1"),
)
TOKEN_OUTPUTS: Tensors = (
    ("output_ids", "INT32", "-1, -1"),
    ("sequence_length", "INT32", "-1"),
    ("cum_log_probs", "FP32", "-1"),
    ("num_output_tokens", "INT32", "1"),
)

OLD_NAMES = {"min_tokens": "min_length", "seed": "random_seed"}
"""What some inputs were called up to TensorRT-LLM 0.16."""


def old(tensors: Tensors) -> Tensors:
    """The inputs as older versions have them."""
    return [(OLD_NAMES.get(name, name), *rest) for name, *rest in tensors]  # type: ignore[misc]


def without(tensors: Tensors, *names: str) -> Tensors:
    """The tensors but those."""
    return [tensor for tensor in tensors if tensor[0].rstrip("!") not in names]


def write_model(
    repository: Path,
    name: str,
    code: str,
    inputs: Tensors,
    outputs: Tensors,
    *,
    parameters: Mapping[str, str],
    max_batch_size: int = 4,
    decoupled: bool = True,
    max_queue_size: int | None = None,
) -> None:
    """A model with the Python backend.

    Args:
        repository: folder of models.
        name: of the model.
        code: file in ``models``.
        inputs: its inputs.
        outputs: its outputs.
        parameters: its own.
        max_batch_size: 0 for none, so that tensors have no batch dimension.
        decoupled: it may answer piece by piece.
        max_queue_size: most requests that wait for it.
    """
    version = repository / name / "1"
    version.mkdir(parents=True)
    shutil.copy(_MODELS / code, version / "model.py")
    shutil.copy(_MODELS / "engine_client.py", version)
    config = [
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch_size}',
        f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}",
        *(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()),
        *_tensors("input", inputs),
        *_tensors("output", outputs),
        "instance_group [{ count: 1 kind: KIND_CPU }]",
    ]
    if max_queue_size is not None:
        # As in upstream's configuration, requests wait a moment for others to be batched with.
        waits = "preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 300000"
        policy = f"default_queue_policy {{ max_queue_size: {max_queue_size} }}"
        config.append(f"dynamic_batching {{ {waits} {policy} }}")
    (repository / name / "config.pbtxt").write_text("\n".join(config))


def write_token_model(
    repository: Path,
    name: str = "tensorrt_llm",
    *,
    engine: str,
    inputs: Tensors = TOKEN_INPUTS,
    max_queue_size: int | None = None,
    decoupled: bool = True,
    **parameters: str,
) -> None:
    """A token-level model.

    Args:
        repository: folder of models.
        name: of the model.
        engine: which of the engine's models runs it.
        inputs: its inputs.
        max_queue_size: most requests that wait for it.
        decoupled: it may answer piece by piece.
        parameters: ``max_seq_len``; ``fail_after`` so many tokens; ``ignores_guides``.
    """
    write_model(
        repository,
        name,
        "token_model.py",
        inputs,
        TOKEN_OUTPUTS,
        parameters={"engine_dir": engine, **parameters},
        max_queue_size=max_queue_size,
        decoupled=decoupled,
    )


TEXT_INPUTS: Tensors = (
    ("text_input!", "STRING", "1"),
    ("max_tokens!", "INT32", "1"),
    ("num_return_sequences", "INT32", "1"),
    ("bad_words", "STRING", "-1"),
    ("stop_words", "STRING", "-1"),
    ("exclude_input_in_output", "BOOL", "1"),
    ("end_id", "INT32", "1"),
    ("pad_id", "INT32", "1"),
    ("top_k", "INT32", "1"),
    ("top_p", "FP32", "1"),
    ("temperature", "FP32", "1"),
    ("length_penalty", "FP32", "1"),
    ("repetition_penalty", "FP32", "1"),
    ("min_tokens", "INT32", "1"),
    ("presence_penalty", "FP32", "1"),
    ("frequency_penalty", "FP32", "1"),
    ("seed", "UINT64", "1"),
    ("return_log_probs", "BOOL", "1"),
    ("return_num_output_tokens", "BOOL", "1"),
    ("beam_width", "INT32", "1"),
    ("stream", "BOOL", "1"),
    ("embedding_bias_words", "STRING", "-1"),
    ("embedding_bias_weights", "FP32", "-1"),
    ("guided_decoding_guide_type", "STRING", "1"),
    ("guided_decoding_guide", "STRING", "1"),
)
TEXT_OUTPUTS: Tensors = (("text_output", "STRING", "-1"), ("num_output_tokens", "INT32", "1"))

LLM_API_INPUTS: Tensors = (
    ("text_input!", "STRING", "-1"),
    ("streaming", "BOOL", "1"),
    ("sampling_param_best_of", "INT32", "1"),
    ("sampling_param_temperature", "FP32", "1"),
    ("sampling_param_top_k", "INT32", "1"),
    ("sampling_param_top_p", "FP32", "1"),
    ("sampling_param_frequency_penalty", "FP32", "1"),
    ("sampling_param_presence_penalty", "FP32", "1"),
    ("sampling_param_max_tokens", "INT32", "1"),
    ("sampling_param_stop", "STRING", "-1"),
    ("sampling_param_seed", "UINT64", "1"),
    ("sampling_param_exclude_input_from_output", "BOOL", "1"),
    ("return_finish_reason", "BOOL", "1"),
    ("return_stop_reason", "BOOL", "1"),
    ("return_cumulative_logprob", "BOOL", "1"),
    ("stop", "BOOL", "1"),
)
LLM_API_OUTPUTS: Tensors = (("text_output", "STRING", "-1"), ("finish_reason", "STRING", "-1"))

_PREPROCESSING_INPUTS: Tensors = (
    ("QUERY!", "STRING", "1"),
    ("REQUEST_OUTPUT_LEN!", "INT32", "1"),
    ("STOP_WORDS_DICT", "STRING", "-1"),
    ("END_ID", "INT32", "1"),
)
_PREPROCESSING_OUTPUTS: Tensors = (
    ("INPUT_ID", "INT32", "-1"),
    ("REQUEST_INPUT_LEN", "INT32", "1"),
    ("REQUEST_OUTPUT_LEN", "INT32", "1"),
    ("STOP_WORDS_IDS", "INT32", "2, -1"),
    ("OUT_END_ID", "INT32", "1"),
)

# of the ensemble's steps: name there → name in the ensemble
_FROM_TEXT = {
    "QUERY": "text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "STOP_WORDS_DICT": "stop_words",
    "END_ID": "end_id",
}
_TO_TOKENS = {
    "INPUT_ID": "_INPUT_ID",
    "REQUEST_INPUT_LEN": "_REQUEST_INPUT_LEN",
    "REQUEST_OUTPUT_LEN": "_REQUEST_OUTPUT_LEN",
    "STOP_WORDS_IDS": "_STOP_WORDS_IDS",
    "OUT_END_ID": "_OUT_END_ID",
}
_GENERATE = {
    "input_ids": "_INPUT_ID",
    "input_lengths": "_REQUEST_INPUT_LEN",
    "request_output_len": "_REQUEST_OUTPUT_LEN",
    "stop_words_list": "_STOP_WORDS_IDS",
    "end_id": "_OUT_END_ID",
    "streaming": "stream",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    **{
        name: name
        for name in (
            "pad_id",
            "temperature",
            "repetition_penalty",
            "min_tokens",
            "seed",
            "exclude_input_in_output",
            "return_num_output_tokens",
            "guided_decoding_guide_type",
            "guided_decoding_guide",
        )
    },
}
_TO_TEXT = {
    "output_ids": "_TOKENS_BATCH",
    "sequence_length": "_SEQUENCE_LENGTH",
    "num_output_tokens": "num_output_tokens",
}


def write_text_models(repository: Path, *, engine: str, tokenizer: Path) -> None:
    """``ensemble`` and ``tensorrt_llm_bls`` around a token-level model, the latter in both of its ways to detokenize.

    Args:
        repository: folder of models.
        engine: which of the engine's models runs them.
        tokenizer: folder of its tokenizer.
    """
    folder = {"tokenizer_dir": str(tokenizer)}
    write_token_model(repository, "tensorrt_llm", engine=engine)
    write_model(
        repository,
        "preprocessing",
        "preprocessing.py",
        _PREPROCESSING_INPUTS,
        _PREPROCESSING_OUTPUTS,
        parameters={**folder, "add_special_tokens": "false"},
        decoupled=False,
    )
    write_model(
        repository,
        "postprocessing",
        "postprocessing.py",
        (("TOKENS_BATCH!", "INT32", "-1, -1"), ("SEQUENCE_LENGTH!", "INT32", "-1")),
        (("OUTPUT", "STRING", "-1"),),
        parameters=folder,
        decoupled=False,
    )
    inner = {f"{name}_model_name": name for name in ("preprocessing", "tensorrt_llm", "postprocessing")}
    for name, accumulates in (("tensorrt_llm_bls", "true"), ("bls_in_pieces", "false")):
        parameters = {**inner, "accumulate_tokens": accumulates}
        write_model(repository, name, "bls.py", TEXT_INPUTS, TEXT_OUTPUTS, parameters=parameters)
    (repository / "ensemble" / "1").mkdir(parents=True)
    used = {*_FROM_TEXT.values(), *_GENERATE.values()}
    config = [
        'name: "ensemble"\nplatform: "ensemble"\nmax_batch_size: 4',
        # An ensemble's inputs must all be used by its steps.
        *_tensors("input", [each for each in TEXT_INPUTS if each[0].rstrip("!") in used]),
        *_tensors("output", TEXT_OUTPUTS),
        "ensemble_scheduling {",
        *_step("preprocessing", _FROM_TEXT, _TO_TOKENS),
        *_step("tensorrt_llm", _GENERATE, _TO_TEXT),
        *_step(
            "postprocessing",
            {"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH"},
            {"OUTPUT": "text_output"},
        ),
        "}",
    ]
    (repository / "ensemble" / "config.pbtxt").write_text("\n".join(config))


def write_llm_api_model(repository: Path, name: str, *, engine: str, tokenizer: Path, end_id: int) -> None:
    """The model of TensorRT-LLM's LLM API.

    Args:
        repository: folder of models.
        name: of the model.
        engine: which of the engine's models runs it.
        tokenizer: folder of its tokenizer.
        end_id: its end token.
    """
    parameters = {"engine_dir": engine, "tokenizer_dir": str(tokenizer), "end_id": str(end_id)}
    write_model(
        repository, name, "llm_api.py", LLM_API_INPUTS, LLM_API_OUTPUTS, parameters=parameters, max_batch_size=0
    )


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Iterable[str]:
    yield f'step {{ model_name: "{model}" model_version: -1'
    for kind, names in (("input_map", inputs), ("output_map", outputs)):
        yield from (f'{kind} {{ key: "{key}" value: "{value}" }}' for key, value in names.items())
    yield "}"


def _tensors(kind: str, tensors: Tensors) -> Iterable[str]:
    for name, data_type, dimensions in tensors:
        optional = " optional: true" if kind == "input" and not name.endswith("!") else ""
        yield f'{kind} {{ name: "{name.rstrip("!")}" data_type: TYPE_{data_type} dims: [ {dimensions} ]{optional} }}'
