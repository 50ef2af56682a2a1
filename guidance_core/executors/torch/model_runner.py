"""A Hugging Face model and its KV cache: token ids in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from guidance_core.config import TorchSettings
from guidance_core.executors.torch import attention
from guidance_core.executors.torch.attention import AttentionPlan, Span
from guidance_core.executors.torch.kv_cache import KVCache

_DEFAULT_MAX_MODEL_LEN = 8192


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence, to be run in a forward pass.

    Attributes:
        slot: KV cache slot of the sequence.
        start: position of ``token_ids[0]``; the slot holds keys and values of all positions below.
        token_ids: 1 (decode), a few (forced tokens) or a chunk of a prompt; at least one.
        logits: of which tokens logits are wanted.
    """

    slot: int
    start: int
    token_ids: Sequence[int]
    logits: Literal["none", "last", "all"]


class ModelRunner:
    """Runs any decoder-only Hugging Face model over a static KV cache.

    Segments of many sequences share one forward pass as a single flat row of tokens, so that each linear layer sees
    them all at once. Use from one thread, the one that made it: OpenMP keeps a pool of workers per calling thread.

    Attributes:
        vocab_size: width of the logits.
        max_model_len: most tokens of one sequence.
        num_slots: sequences that the cache can hold.
        eos_token_ids: the model's own end tokens.
        device: where the model is and the logits are.
        dtype: what the model computes in.
    """

    def __init__(self, model_path: Path, settings: TorchSettings, *, trust_remote_code: bool) -> None:
        """Load the model and check that it can be served.

        Args:
            model_path: a Hugging Face checkpoint folder.
            settings: device, dtype, sizes.
            trust_remote_code: whether Python code from the folder may run.

        Raises:
            ValueError: the model or the settings cannot be served; the message says why and what to do.
        """
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        self.device = _resolve_device(settings.device)
        self.dtype = _resolve_dtype(settings.dtype, self.device)
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
        self.max_model_len = _resolve_max_model_len(config, settings.max_model_len)
        self.num_slots = settings.max_batch_size
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_path,
            config=config,
            dtype=self.dtype,
            attn_implementation=attention.NAME,
            trust_remote_code=trust_remote_code,
        )
        self._model = model.to(self.device).eval().requires_grad_(False)
        self.vocab_size: int = self._model.get_output_embeddings().weight.shape[0]
        self.eos_token_ids = _eos_token_ids(model_path, config, trust_remote_code)
        self._keeps_logits = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._cache = KVCache(self.num_slots, self.max_model_len)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Run the segments, each of a different slot, and store their keys and values.

        Args:
            segments: at least one.

        Returns:
            float32 ``[rows, vocab_size]`` on the device, the caller's to change: in the order of the segments, one row
            for ``last``, one per token for ``all``, none for ``none``.
        """
        ids: list[int] = []
        positions: list[int] = []
        cache_rows: list[int] = []
        spans: list[Span] = []
        wanted: list[int] = []
        for segment in segments:
            first, length = len(ids), len(segment.token_ids)
            spans.append(Span(first, length, segment.slot, segment.start))
            ids.extend(segment.token_ids)
            positions.extend(range(segment.start, segment.start + length))
            row = segment.slot * self.max_model_len + segment.start
            cache_rows.extend(range(row, row + length))
            if segment.logits == "last":
                wanted.append(first + length - 1)
            elif segment.logits == "all":
                wanted.extend(range(first, first + length))
        rows = torch.tensor(wanted, dtype=torch.int64, device=self.device)
        self._cache.begin(torch.tensor(cache_rows, device=self.device))
        token = attention.current_plan.set(AttentionPlan(spans, self.device))
        try:
            output = self._model(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.tensor([positions], device=self.device),
                past_key_values=self._cache,
                use_cache=True,
                **({"logits_to_keep": rows} if self._keeps_logits else {}),
            )
        finally:
            attention.current_plan.reset(token)
        logits: torch.Tensor = output.logits[0] if self._keeps_logits else output.logits[0, rows]
        return logits.float()

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the keys and values of positions below ``length`` from one slot to another."""
        self._cache.copy_prefix(source, target, length)

    def warm_up(self) -> None:
        """Run a prefill and a decode step, so that the first request meets no first-time costs."""
        self.forward([Segment(0, 0, [0] * min(8, self.max_model_len - 1), "last")])
        self.forward([Segment(0, 1, [0], "last")])


def _resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"torch.device is {name!r}, but PyTorch sees no CUDA device; set it to `auto` or `cpu`.")
    return device


def _resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _resolve_max_model_len(config: Any, wanted: int | None) -> int:
    limit: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if wanted is None:
        return min(limit or _DEFAULT_MAX_MODEL_LEN, _DEFAULT_MAX_MODEL_LEN)
    if limit is not None and wanted > limit:
        raise ValueError(
            f"torch.max_model_len is {wanted}, but the model has {limit} positions; set it to {limit} or less."
        )
    return wanted


def _eos_token_ids(model_path: Path, config: Any, trust_remote_code: bool) -> tuple[int, ...]:
    """The model's end tokens: from its generation config, else its config, else its tokenizer."""
    if (model_path / "generation_config.json").exists():
        eos = GenerationConfig.from_pretrained(model_path).eos_token_id
    else:
        eos = None
    if eos is None:
        eos = getattr(config.get_text_config(decoder=True), "eos_token_id", None)
    if eos is None and any(model_path.glob("tokenizer*")):
        eos = AutoTokenizer.from_pretrained(model_path, trust_remote_code=trust_remote_code).eos_token_id
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)
