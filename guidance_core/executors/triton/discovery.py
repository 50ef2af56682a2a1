"""Finds out which interface a model on the server has."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tokenizers import Tokenizer
from tritonclient.grpc.model_config_pb2 import ModelConfig as Config

from guidance_core.executors.base import ModelLimits
from guidance_core.executors.triton.connection import Connection
from guidance_core.executors.triton.interface import ModelInterface, StopModel, UnknownInterface
from guidance_core.executors.triton.prompt_text import PromptText
from guidance_core.executors.triton.tensors import parameters
from guidance_core.executors.triton.text_model import LlmApiModel, TextModel
from guidance_core.executors.triton.token_model import TokenModel
from guidance_core.output.token_bytes import spelling_rules

_log = logging.getLogger(__name__)


async def discover(connection: Connection, model: str, limits: ModelLimits, tokenizer: Tokenizer) -> ModelInterface:
    """Ask the server for a model's configuration, and for those of the models that it consists of.

    Args:
        connection: to the server.
        model: its name there.
        limits: of the model that is served.
        tokenizer: of the model that is served.

    Raises:
        ExecutorUnavailable: the server cannot be reached, or the model is not ready.
        UnknownInterface: the model is none that can be used here.
    """
    config = await connection.model_config(model)
    names = {each.name for each in config.input}
    if "input_ids" in names:
        _require_streaming(config, [config])
        return TokenModel(config, limits)
    if "sampling_param_max_tokens" in names:
        _require_streaming(config, [config])
        return LlmApiModel(config, limits, tokenizer, PromptText(tokenizer, adds_special_tokens=True))
    if names >= {"text_input", "max_tokens"}:
        return await _text_model(connection, config, limits, tokenizer)
    raise UnknownInterface(
        f"The Triton server's model {model!r} has the inputs {', '.join(sorted(names))}, which are those of no "
        "language model of TensorRT-LLM's Triton backend: set triton.model to another one (tensorrt_llm, ensemble, …)."
    )


async def _text_model(connection: Connection, config: Config, limits: ModelLimits, tokenizer: Tokenizer) -> TextModel:
    is_ensemble = bool(config.ensemble_scheduling.step)
    if is_ensemble:
        inner = [step.model_name for step in config.ensemble_scheduling.step]
    else:
        inner = ["preprocessing", parameters(config).get("tensorrt_llm_model_name", "tensorrt_llm")]
    configs = [await connection.model_config(name) for name in dict.fromkeys(inner)]
    _require_streaming(config, configs if is_ensemble else [config])
    accumulates = _is_true(parameters(config).get("accumulate_tokens", "false"))
    if not accumulates and not _pieces_add_up(tokenizer):
        raise UnknownInterface(
            f"The Triton server's model {config.name!r} detokenizes each token by itself, which loses the spaces of "
            "this model's tokenizer: set triton.model to the token-level model, or to a tensorrt_llm_bls whose "
            "accumulate_tokens is true."
        )
    adds = all(_is_true(parameters(each).get("add_special_tokens", "true")) for each in configs)
    stops = [stop for stop in map(StopModel.of, configs) if stop is not None]
    if not is_ensemble:
        _log.warning(
            "Triton's model %r asks the token-level model under ids of its own: answers that are given up are computed "
            "to their end. Serve the token-level model instead if clients often leave early.",
            config.name,
        )
    return TextModel(
        config,
        limits,
        tokenizer,
        PromptText(tokenizer, adds_special_tokens=adds),
        accumulates=accumulates,
        stop_with=stops[0] if is_ensemble and stops else None,
    )


def _require_streaming(config: Config, parts: Sequence[Config]) -> None:
    if not any(each.model_transaction_policy.decoupled for each in parts):
        raise UnknownInterface(
            f"The Triton server's model {config.name!r} answers in one piece: set decoupled_mode to true in its "
            "config.pbtxt (model_transaction_policy), so that it can stream and be stopped."
        )


def _pieces_add_up(tokenizer: Tokenizer) -> bool:
    """Whether decoding tokens one by one gives the text of them all, but for characters that they share."""
    rules = spelling_rules(tokenizer)
    return rules is not None and rules.at_start(b" a") == b" a"


def _is_true(text: str) -> bool:
    """As the backend's own models read their parameters."""
    return text.lower() in ("true", "1", "t", "y", "yes")
