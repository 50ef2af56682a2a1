"""A Hugging Face model and its KV cache: token ids in, logits out."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)

from guidance_core.config import LoraSettings, TorchSettings
from guidance_core.executors.torch import attention, image_check, self_check
from guidance_core.executors.torch.attention_plan import AttentionPlan, Span
from guidance_core.executors.torch.images import ImageEncoder, PlacedImage
from guidance_core.executors.torch.kv_cache import KVCache
from guidance_core.executors.torch.lora import AdaptedLayers, adaptable_layers
from guidance_core.executors.torch.lora_file import BadAdapter, LayerDelta, read_adapter
from guidance_core.executors.torch.packed_linear import can_pack, pack_linear_layers
from guidance_core.executors.torch.segment import Segment
from guidance_core.prompt.model_folder import end_token_ids

__all__ = ["ModelRunner", "Segment"]

logger = logging.getLogger(__name__)

_DEFAULT_MAX_MODEL_LEN = 8192

_LEAST_MAX_MODEL_LEN = 512
"""A context that was not asked for is made to fit the GPU's memory down to this; below it, loading fails."""


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
        no_images: why the model takes no images; None where it does.
        whole_images: whether the tokens of an image see each other, so that they are to be run in one step.
    """

    def __init__(
        self,
        model_path: Path,
        settings: TorchSettings,
        *,
        trust_remote_code: bool,
        lora: LoraSettings | None = None,
        eos_token: str | None = None,
    ) -> None:
        """Load the model and check that it can be served.

        Args:
            model_path: a Hugging Face checkpoint folder.
            settings: device, dtype, sizes.
            trust_remote_code: whether Python code from the folder may run.
            lora: largest rank and the like, where adapters are served.
            eos_token: the one end token, in place of the model's own.

        Raises:
            ValueError: the model or the settings cannot be served; the message says why and what to do.
        """
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        self.device = _resolve_device(settings.device)
        self.dtype = _resolve_dtype(settings.dtype, self.device)
        config, self._model = _load(model_path, self.dtype, self.device, trust_remote_code)
        self.eos_token_ids = end_token_ids(model_path, eos_token) or _eos_token_ids(
            model_path, config, trust_remote_code
        )
        self.max_model_len = _resolve_max_model_len(config, settings.max_model_len)
        self.num_slots = settings.max_batch_size
        self._keeps_logits = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._cache = KVCache(self_check.SLOTS, self_check.LENGTH)
        self._lora = lora
        self._images = ImageEncoder(self._model)
        self.whole_images = self._blocks_in_windows_only = False
        self._adapted = AdaptedLayers(self._model)
        self._adaptable: dict[str, tuple[int, int]] = {}
        try:
            reference = self_check.reference_logits(self._model, self.device)
            if lora is not None:
                self._adaptable = adaptable_layers(
                    self._model, lambda: self_check.reference_logits(self._model, self.device), self_check.LENGTH
                )
            support = image_check.image_support(self._model, model_path, trust_remote_code=trust_remote_code)
            self.no_images, self.whole_images = support.refusal, support.sight != "before"
            self._blocks_in_windows_only = support.sight == "each other in windows"
            self_check.check_masks(self._model, self.max_model_len, self.device)
            self._model.set_attn_implementation(image_check.implementations(self._model, attention.NAME))
            if settings.packed_linear and can_pack(self.device, self.dtype):
                pack_linear_layers(self._model, lambda: self.forward([Segment(0, 0, [0] * 8, "last")]))
            self_check.check_logits(self._model, reference, self.dtype, self.forward, self.copy_prefix)
        except Exception as error:
            name, reason = type(self._model).__name__, str(error).rstrip(".")
            raise ValueError(
                f"The embedded executor cannot serve {name} ({model_path}): {reason}. It serves decoder-only models "
                "whose attention goes through transformers' attention interface."
            ) from error
        self.vocab_size = reference.shape[-1]
        self._cache = self._make_cache(self._cache.bytes_per_token, settings.max_model_len is None)
        self._before_logits: Callable[[], None] | None = None
        head = self._model.get_output_embeddings()
        if head is not None:
            head.register_forward_pre_hook(lambda *_: self._come_to_logits())

    @torch.no_grad()
    def forward(self, segments: Sequence[Segment], *, before_logits: Callable[[], None] | None = None) -> torch.Tensor:
        """Run the segments, each of a different slot, and store their keys and values.

        Args:
            segments: at least one.
            before_logits: called once. On a GPU at the beginning, as kernels are only launched here. On a CPU right
                before the product with the vocabulary, the longest operation of all: what another thread is told to
                do then has the interpreter's lock to itself. During others, which are short, this thread waits for
                that lock whenever the other one has it, some 0.3 ms in all on a machine of two cores.

        Returns:
            float32 ``[rows, vocab_size]`` on the device, the caller's to change: in the order of the segments, one row
            for ``last``, one per token for ``all``, none for ``none``.
        """
        spans = [
            Span(segment.slot, segment.start, len(segment.token_ids), self._blocks(segment)) for segment in segments
        ]
        plan = AttentionPlan(spans, self.device, blocks_in_windows_only=self._blocks_in_windows_only)
        ids: list[int] = []
        positions: list[int] = []
        cache_rows: list[int] = []
        first = [0] * len(segments)
        for index in plan.order:
            segment, span = segments[index], spans[index]
            first[index] = len(ids)
            ids.extend(segment.token_ids)
            positions.extend(range(span.start, span.start + span.length))
            row = span.slot * self._cache.max_len + span.start
            cache_rows.extend(range(row, row + span.length))
        wanted: list[int] = []
        for segment, span, begin in zip(segments, spans, first, strict=True):
            end = begin + span.length
            if segment.logits != "none":
                wanted.extend(range(begin if segment.logits == "all" else end - 1, end))
        rows = torch.tensor(wanted, dtype=torch.int64, device=self.device)
        self._cache.begin(torch.tensor(cache_rows, device=self.device))
        adapted = [
            (segment.lora, range(begin, begin + len(segment.token_ids)))
            for segment, begin in zip(segments, first, strict=True)
            if segment.lora is not None
        ]
        images = [
            PlacedImage(image, segment.start, range(begin, begin + len(segment.token_ids)))
            for segment, begin in zip(segments, first, strict=True)
            for image in segment.images
        ]
        self._before_logits = before_logits
        if self.device.type != "cpu":
            self._come_to_logits()
        token = attention.current_plan.set(plan)
        try:
            with self._adapted.applied(adapted, self.device), self._images.in_deeper_layers(len(ids), images):
                output = self._model(
                    **self._inputs(ids, images),
                    position_ids=self._positions(positions, segments, first),
                    past_key_values=self._cache,
                    use_cache=True,
                    **({"logits_to_keep": rows} if self._keeps_logits else {}),
                )
        finally:
            attention.current_plan.reset(token)
        self._come_to_logits()  # where the model makes them without a module
        logits: torch.Tensor = output.logits[0] if self._keeps_logits else output.logits[0, rows]
        return logits.float()

    def _come_to_logits(self) -> None:
        call, self._before_logits = self._before_logits, None
        if call is not None:
            call()

    def _blocks(self, segment: Segment) -> tuple[tuple[int, int], ...]:
        """Which of a segment's tokens see each other; see `Span`."""
        if not self.whole_images:
            return ()
        end = segment.start + len(segment.token_ids)
        blocks = (block for image in segment.images for block in image.blocks)
        return tuple(
            (max(first, segment.start), after) for first, after in blocks if first < end and after > segment.start
        )

    def _inputs(self, ids: list[int], images: Sequence[PlacedImage]) -> dict[str, torch.Tensor]:
        """What the model gets of a flat batch: token ids, or embeddings where there are images among them."""
        token_ids = torch.tensor([ids], device=self.device)
        return {"inputs_embeds": self._images.embed(token_ids, images)} if images else {"input_ids": token_ids}

    def _positions(self, counted: Sequence[int], segments: Sequence[Segment], first: Sequence[int]) -> torch.Tensor:
        """Where the tokens of a flat batch stand, as the model takes it.

        Args:
            counted: positions of the tokens, each in its own sequence.
            segments: that make the batch up.
            first: where in the batch each begins.
        """
        grids = [
            (segment.grid, segment.start, range(begin, begin + len(segment.token_ids)))
            for segment, begin in zip(segments, first, strict=True)
            if segment.grid is not None
        ]
        return torch.from_numpy(self._images.positions(counted, grids)).to(self.device)

    def read_adapter(self, folder: Path) -> dict[str, LayerDelta]:
        """A low-rank adapter's weights, for a `LoadedAdapter`.

        Raises:
            BadAdapter: it is not for this model, or no adapters are served.
        """
        if self._lora is None:
            raise BadAdapter("lora.folder is not set")
        return read_adapter(folder, self._adaptable, max_rank=self._lora.max_rank, dtype=self.dtype, device=self.device)

    @torch.no_grad()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the keys and values of positions below ``length`` from one slot to another."""
        self._cache.copy_prefix(source, target, length)

    @torch.no_grad()
    def clear(self, slot: int, length: int) -> None:
        """Zero a slot's keys and values of positions below ``length``: after invalid numbers were written there."""
        self._cache.clear(slot, length)

    def warm_up(self) -> None:
        """Run a prefill and a decode step of full size, so that the first requests meet no first-time costs."""
        prompt = [0] * min(64, self.max_model_len - 1)
        self.forward([Segment(0, 0, prompt, "last")])
        self.forward([Segment(slot, len(prompt), [0], "last") for slot in range(self.num_slots)])

    def _make_cache(self, bytes_per_token: int, may_shrink: bool) -> KVCache:
        """The cache that requests use, within the memory that there is."""
        tokens = self.num_slots * self.max_model_len
        if self.device.type != "cuda":
            physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if tokens * bytes_per_token > physical / 2:
                logger.warning(
                    "A KV cache of %d slots with %d tokens each takes %.1f GB if all are used, of %.1f GB of memory; "
                    "torch.max_batch_size and torch.max_model_len limit it.",
                    self.num_slots,
                    self.max_model_len,
                    tokens * bytes_per_token / 1e9,
                    physical / 1e9,
                )
            return KVCache(self.num_slots, self.max_model_len)
        free = int(torch.cuda.mem_get_info(self.device)[0] * 0.9)
        fitting = free // (bytes_per_token * self.num_slots)
        if fitting < self.max_model_len:
            if not may_shrink or fitting < _LEAST_MAX_MODEL_LEN:
                raise ValueError(
                    f"A KV cache of {self.num_slots} slots with {self.max_model_len} tokens each takes "
                    f"{tokens * bytes_per_token / 1e9:.1f} GB, but the GPU has {free / 1e9:.1f} GB left: set "
                    f"torch.max_model_len to {fitting} or less, or lower torch.max_batch_size."
                )
            self.max_model_len = fitting
            logger.warning("torch.max_model_len is %d: that is what fits the GPU's memory.", fitting)
        return KVCache(self.num_slots, self.max_model_len)


def _load(model_path: Path, dtype: torch.dtype, device: torch.device, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model's config and the model, with the attention that its own code would use."""
    try:
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
        if config.is_encoder_decoder:
            raise ValueError(f"{config.model_type} is an encoder-decoder model; decoder-only models are served")
        takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        text_only = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or not takes_images
        model: Any = (AutoModelForCausalLM if text_only else AutoModelForImageTextToText).from_pretrained(
            model_path,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ValueError(f"Cannot load a language model from {model_path}: {error}") from error
    return config, model.to(device).eval().requires_grad_(False)


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
    limit = _position_limit(config.get_text_config(decoder=True))
    if wanted is None:
        return _DEFAULT_MAX_MODEL_LEN if limit is None else min(limit, _DEFAULT_MAX_MODEL_LEN)
    if limit is not None and wanted > limit:
        raise ValueError(
            f"torch.max_model_len is {wanted}, but the model serves {limit} positions; set it to {limit} or less."
        )
    return wanted


def _position_limit(config: Any) -> int | None:
    """How many positions a model has, None if any number.

    Rotary positions of the types ``dynamic`` and ``longrope`` turn by other angles once a sequence is longer than what
    the model was first trained on; a flat batch turns all its sequences by the same, so none may be.
    """
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope"):
        original = rope.get("original_max_position_embeddings")
        original = original or getattr(config, "original_max_position_embeddings", None)
        return original or limit
    return limit


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
