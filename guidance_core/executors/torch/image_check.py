"""Can the images of a loaded model be run rightly? Asked once, as `self_check` asks it of the text.

The model's own forward pass on a text with two images says what its language model gets: embeddings, positions, masks.
The runner hands over the embeddings, features for deeper layers where there are some, positions that count up or
`GridPositions`, and a causal mask, in which the tokens of an image may see each other. Anything else is refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from guidance_core.executors.torch.attention_plan import first_key
from guidance_core.executors.torch.images import ImageEncoder, PlacedImage, SequenceImage, grid_positions
from guidance_core.prompt.images import TEXT_INPUTS, ImageProcessor, probe_images

logger = logging.getLogger(__name__)

_NAME = "slots_image_check"

_EXACT_TOLERANCE = 1e-4
"""Largest relative difference that rounding explains in float32 between two images at once and one after the other."""

_HALF_TOLERANCE = 0.05
"""The same in half precision."""


Sight = Literal["before", "each other", "each other in windows"]
"""What the tokens of an image see: what comes before them, or besides that each other, in all layers or in those with a
sliding window."""


class ImageSupport(NamedTuple):
    """How a model takes images.

    Attributes:
        refusal: why it takes none, for the end of a sentence; None where it does.
        sight: see `Sight`.
    """

    refusal: str | None
    sight: Sight = "before"


def check_images(model: Any, processor: ImageProcessor) -> Sight:
    """Compare what the model's language model gets with what the runner would give it.

    Leaves the language model with an attention implementation of its own: set the one to use afterwards.

    Args:
        model: of transformers, with ``get_image_features``.
        processor: the model's.

    Returns:
        What the tokens of an image see.

    Raises:
        ValueError: they differ; the message says in what.
    """
    images = probe_images()
    text = f"a{processor.token}b {processor.token}c"
    inputs = _tensors(model, processor.together(text, images))
    processed = [processor.process(image) for image in images]
    token_ids, placed = processor.place(processor.encode(text), processed)
    if set(inputs) - TEXT_INPUTS != set(placed[0].inputs):
        raise ValueError("its processor gives other inputs for two images than for one")
    with torch.no_grad():
        seen = _language_model_inputs(model, inputs)
        layout = [PlacedImage(SequenceImage(image), 0, range(len(token_ids))) for image in placed]
        _check_others(model, seen, len(token_ids), layout)
        _check_positions(model, seen.get("position_ids"), len(token_ids), [image for image, *_ in layout])
        _check_embeddings(model, seen.get("inputs_embeds"), token_ids, layout)
        sight = _check_masks(
            model,
            {name: tensor for name, tensor in inputs.items() if name != "attention_mask"},
            [block for image, *_ in layout for block in image.blocks],
        )
    # The scheduler may leave out a prompt's last token, but never one that others see.
    if sight != "before" and any(image.placeholders[-1] == len(image.token_ids) - 1 for image in processed):
        raise ValueError("its image tokens see each other, and nothing marks their end")
    return sight


def image_support(model: Any, folder: Path, *, trust_remote_code: bool) -> ImageSupport:
    """Whether and how a model takes images.

    Args:
        model: of transformers, with the attention that its own code would use; see `check_images`.
        folder: the model's, with its processor.
        trust_remote_code: whether Python code from the folder may run.
    """
    if not hasattr(model, "get_image_features"):
        return ImageSupport("this model takes text only")
    try:
        processor = ImageProcessor.from_folder(folder, trust_remote_code=trust_remote_code)
        return ImageSupport(None, check_images(model, processor))
    except Exception as error:  # whatever the model's code raises: its text can be served all the same
        reason = str(error).rstrip(".") or type(error).__name__
        logger.warning("Images are refused: %s cannot be served with them: %s.", type(model).__name__, reason)
        return ImageSupport(f"{type(model).__name__} cannot be served with images: {reason}")


def implementations(model: Any, language: str) -> str | dict[str, str]:
    """For ``set_attn_implementation``: one for the language model, and the vision model's own fast one."""
    if not hasattr(model, "get_image_features"):
        return language
    text = model.config.get_text_config(decoder=True)
    chosen = {"": language}
    for name in model.config.sub_configs:
        part = getattr(model.config, name, None)
        if part is text:
            chosen[name] = language
        elif part is not None:
            modules = [m for m in model.modules() if isinstance(m, PreTrainedModel) and m.config is part]
            chosen[name] = "sdpa" if all(m._supports_sdpa for m in modules) else "eager"
    return chosen


def _tensors(model: Any, arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(np.asarray(value)).to(model.device) for name, value in arrays.items()}
    return {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in tensors.items()}


class _Caught(Exception):
    """The language model has been called."""


def _language_model_inputs(model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the model's own forward pass calls its language model with."""
    caught: dict[str, Any] = {}

    def catch(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.update(kwargs)
        raise _Caught

    hook = model.get_decoder().register_forward_pre_hook(catch, with_kwargs=True)
    try:
        model(**inputs, use_cache=False)
    except _Caught:
        return caught
    finally:
        hook.remove()
    raise ValueError("its forward pass does not call its language model")


def _check_others(model: Any, seen: Mapping[str, Any], tokens: int, images: Sequence[PlacedImage]) -> None:
    ours = ImageEncoder(model).deeper(tokens, images)
    known = TEXT_INPUTS | {"inputs_embeds", "position_ids", "cache_position", *ours}
    others = [
        name
        for name, value in seen.items()
        if name not in known and (isinstance(value, torch.Tensor) or (isinstance(value, list | tuple) and value))
    ]
    if others:
        raise ValueError(f"its language model gets more of an image than embeddings ({', '.join(sorted(others))})")
    for name, value in ours.items():
        theirs: Any = seen.get(name)
        if not isinstance(theirs, type(value)) or len(theirs) != len(value):
            raise ValueError(f"its language model does not get {name} as Qwen3-VL's does")
        for expected, part in zip(theirs, value, strict=True):
            _check_close("features for deeper layers", expected.float(), part.float(), model.dtype)


def _check_positions(model: Any, expected: torch.Tensor | None, tokens: int, images: Sequence[SequenceImage]) -> None:
    counted = range(tokens)
    grid = grid_positions(tokens, images)
    ours = ImageEncoder(model).positions(counted, [] if grid is None else [(grid, 0, counted)])
    # None where the language model counts by itself.
    theirs = np.array([counted]) if expected is None else expected.cpu().numpy()
    if theirs.ndim == 3 and len(theirs) == 4:
        theirs = theirs[1:]  # behind those of a text, for masks
    if theirs.shape[-1] != tokens or not (theirs == ours).all():
        raise ValueError("the positions of its image tokens neither count up nor are those of Qwen2-VL's M-RoPE")


def _check_embeddings(
    model: Any, expected: torch.Tensor | None, token_ids: Sequence[int], images: Sequence[PlacedImage]
) -> None:
    if expected is None:
        raise ValueError("its language model gets no embeddings")
    ours = ImageEncoder(model).embed(torch.tensor([token_ids], device=model.device), images)
    _check_close("embeddings", expected, ours, model.dtype)


def _check_close(name: str, expected: torch.Tensor, ours: torch.Tensor, dtype: torch.dtype) -> None:
    tolerance = _EXACT_TOLERANCE if dtype == torch.float32 else _HALF_TOLERANCE
    error = math.inf
    if ours.shape == expected.shape:
        error = float((ours - expected).float().norm() / expected.float().norm())
    if not error <= tolerance:
        raise ValueError(
            f"its {name} of two images differ by {error:.2g} from those of each alone, of which rounding explains "
            f"{tolerance:g}"
        )


def _check_masks(model: Any, inputs: Mapping[str, torch.Tensor], blocks: Sequence[tuple[int, int]]) -> Sight:
    tokens = inputs["input_ids"].shape[1]
    positions = torch.arange(tokens, device=model.device)
    whole = torch.zeros(tokens, tokens, dtype=torch.bool, device=model.device)
    for first, end in blocks:
        whole[first:end, first:end] = True
    matches: dict[Sight, list[bool]] = {"before": [], "each other": [], "each other in windows": []}

    def mask(*, mask_function: Callable[..., torch.Tensor], **_: object) -> torch.Tensor:
        zero = torch.zeros((), dtype=torch.int64, device=model.device)
        return mask_function(zero, zero, positions[:, None], positions[None]).expand(1, 1, tokens, tokens)

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        sliding_window: int | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        first = torch.tensor([first_key(position, sliding_window) for position in range(tokens)], device=model.device)
        causal, window = positions[None] <= positions[:, None], positions[None] >= first[:, None]
        blocks_in_window = causal if sliding_window is None else causal | whole
        for layers, seen in zip(matches.values(), (causal, causal | whole, blocks_in_window), strict=True):
            layers.append(attention_mask is not None and torch.equal(attention_mask[0, 0], seen & window))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

    AttentionInterface.register(_NAME, attention)
    AttentionMaskInterface.register(_NAME, mask)
    model.set_attn_implementation(implementations(model, _NAME))
    model(**inputs, use_cache=False)
    for sight, layers in matches.items():
        if layers and all(layers):
            return sight
    raise ValueError(
        "its image tokens see neither only what comes before them nor, besides that, each other, within each image"
    )
