"""``tensorrt_llm/llmapi/llm.py``: the entry of the LLM API."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tensorrt_llm.executor.proxy import GenerationExecutorProxy
from tensorrt_llm.executor.request import LoRARequest
from tensorrt_llm.executor.result import GenerationResult
from tensorrt_llm.llmapi.llm_args import BaseLlmArgs, TorchLlmArgs, TrtLlmArgs
from tensorrt_llm.sampling_params import SamplingParams


class RequestOutput(GenerationResult):
    """What `generate_async` gives."""


class _BaseLLM:
    _args_class: type[BaseLlmArgs]

    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in self._args_class.model_fields:
                raise ValueError(f"{type(self).__name__} got invalid argument: {name}")
        self.args = self._args_class(
            model=str(model),
            tokenizer=tokenizer,
            tokenizer_mode=tokenizer_mode,
            skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            **kwargs,
        )
        world = self.args.tensor_parallel_size * self.args.pipeline_parallel_size
        if world > 1:
            raise RuntimeError(f"Only 1 GPUs are available, but {world} are required.")
        self._check_backend()
        self._executor = GenerationExecutorProxy(self.args, self._backend)

    _backend: str

    def _check_backend(self) -> None:
        raise NotImplementedError

    def _check_arguments(self, prompt_length: int, sampling_params: SamplingParams) -> None:
        raise NotImplementedError

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: LoRARequest | None = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
    ) -> RequestOutput:
        """Queue a request, which is pickled into the worker process."""
        params = SamplingParams() if sampling_params is None else sampling_params
        if not isinstance(params, SamplingParams):
            raise TypeError("The sampling_params must be type SamplingParams or None")
        if params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if not isinstance(inputs, list) or not all(isinstance(token, int) for token in inputs):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        self._check_arguments(len(inputs), params)
        return self._executor.submit(RequestOutput(inputs, params, streaming, self._executor), lora_request)

    def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        """Statistics of iterations; ends when none comes for so long."""
        return self._executor.iteration_stats(timeout)

    def _check_health(self) -> bool:
        return not self._executor.doing_shutdown

    def shutdown(self) -> None:
        """End the worker."""
        self._executor.shutdown()

    def __getstate__(self) -> object:
        raise RuntimeError("LLM object can not be pickled.")


def _create_input_processor(model: str) -> None:
    """``create_input_processor`` in ``inputs/registry.py``, which trusts code whatever ``LLM`` is told."""
    from transformers import AutoConfig

    with contextlib.suppress(ValueError, OSError):
        AutoConfig.from_pretrained(model, trust_remote_code=True)


class LLM(_BaseLLM):
    """The PyTorch backend, on a checkpoint."""

    _args_class = TorchLlmArgs
    _backend = "pytorch"

    def _check_backend(self) -> None:
        config = json.loads((Path(self.args.model) / "config.json").read_text())
        if "pretrained_config" in config:
            raise ValueError("The PyTorch backend needs a Hugging Face checkpoint.")
        if "auto_map" in config:
            _create_input_processor(self.args.model)
        if self.args.guided_decoding_backend is not None and self.args.skip_tokenizer_init:
            raise ValueError("Guided decoding needs the tokenizer.")

    def _check_arguments(self, prompt_length: int, sampling_params: SamplingParams) -> None:
        limit = self.args.max_num_tokens
        if not self.args.enable_chunked_prefill and limit and prompt_length > limit:
            raise ValueError(f"The sum of prompt length ({prompt_length}) should not exceed max_num_tokens ({limit})")


class EngineLLM(_BaseLLM):
    """Compiled engines."""

    _args_class = TrtLlmArgs
    _backend = "tensorrt"

    def _check_backend(self) -> None:
        config = json.loads((Path(self.args.model) / "config.json").read_text())
        self._build = config["build_config"]
        if self.args.guided_decoding_backend not in (None, "xgrammar"):
            raise ValueError(f"Unsupported guided decoding backend {self.args.guided_decoding_backend}")

    def _check_arguments(self, prompt_length: int, sampling_params: SamplingParams) -> None:
        longest = self._build["max_seq_len"]
        if not self.args.enable_chunked_prefill and prompt_length + sampling_params.max_tokens > longest:
            raise ValueError(f"The sum of prompt length and max_tokens should not exceed max_seq_len ({longest})")
        if sampling_params.logprobs and not self.args.gather_generation_logits:
            raise ValueError("`sampling_params.logprobs` requires `gather_generation_logits=True`")
