"""Images of prompts, as the language model sees them: embeddings in the places of placeholder tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from guidance_core.errors import GenerationFailed
from guidance_core.generation import PromptImage

if TYPE_CHECKING:
    import torch


class ImageFeatures(NamedTuple):
    """What a vision model makes of an image.

    Attributes:
        embeddings: ``[features, hidden]``, in the places of the placeholders.
        deeper: the same shape, for each of the language model's first layers that adds some to what it gives
            (DeepStack, arXiv:2406.04334, as in Qwen3-VL); mostly there are none.
    """

    embeddings: torch.Tensor
    deeper: tuple[torch.Tensor, ...] = ()


class SequenceImage:
    """An image of a prompt; the choices of a request share it, and with it what the vision model makes of it.

    Attributes:
        positions: int32 ``[features]``, rising: of its placeholders in the prompt.
        blocks: first and end positions of the placeholders that follow one another without a gap.
        inputs: of the vision model.
        key: their SHA-256.
        features: of it, once the vision model has run.
    """

    __slots__ = ("blocks", "features", "inputs", "key", "positions")

    def __init__(self, image: PromptImage) -> None:
        self.positions = image.positions
        self.blocks = _runs(image.positions)
        self.inputs = image.inputs
        self.key = image.key
        self.features: ImageFeatures | None = None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of its placeholders, where the vision model says them (``image_grid_thw``, as in Qwen2-VL).

        None elsewhere, and where the placeholders are not such a grid, one after the other.
        """
        patches = self.inputs.get("image_grid_thw")
        tokens = len(self.positions)
        if patches is None or len(self.blocks) > 1:
            return None
        times, *sides = np.asarray(patches).reshape(-1).tolist()
        merged = max(1, math.isqrt(math.prod(sides) // tokens))
        rows, columns = (side // merged for side in sides)
        return (rows, columns) if times == 1 and rows * columns == tokens else None

    def lies_in(self, start: int, end: int) -> bool:
        """Whether any of its placeholders has a position from ``start`` to below ``end``."""
        return bool(np.searchsorted(self.positions, start) < np.searchsorted(self.positions, end))


def _runs(positions: npt.NDArray[np.int32]) -> tuple[tuple[int, int], ...]:
    gaps = np.flatnonzero(np.diff(positions) > 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(positions, gaps))


def prefix_keys(prompt_ids: Sequence[int], images: Sequence[SequenceImage]) -> npt.NDArray[np.int64]:
    """What a prompt's tokens are for the prefix cache: their ids, and where a placeholder is, the image's content.

    A placeholder's key is negative, which no id is, and has 63 bits of the content's SHA-256, other ones from one
    placeholder to the next: all of them together tell any two images apart.
    """
    keys = np.array(prompt_ids, dtype=np.int64)
    for image in images:
        words = np.frombuffer(image.key, dtype=np.int64) | np.int64(-(2**63))
        keys[image.positions] = np.resize(words, len(image.positions))
    return keys


class GridPositions:
    """Where a prompt's tokens stand in three dimensions: time, row and column (M-RoPE, of Qwen2-VL, arXiv:2409.12191).

    The three are equal for a text's tokens. Those of an image have one time, and the rows and columns of a grid; what
    follows goes on behind the largest of them.
    """

    __slots__ = ("_positions", "_shift")

    def __init__(self, tokens: int, images: Sequence[SequenceImage]) -> None:
        """Place a prompt.

        Args:
            tokens: how many it has.
            images: in it, in order; those without a `SequenceImage.grid` count up as a text does.
        """
        self._positions = np.empty((3, tokens), dtype=np.int64)
        done = self._shift = 0
        for image in images:
            if image.grid is None:
                continue
            first, end = int(image.positions[0]), int(image.positions[-1]) + 1
            self._positions[:, done:first] = np.arange(done, first) + self._shift
            self._positions[:, first:end] = np.indices((1, *image.grid)).reshape(3, -1) + first + self._shift
            done, self._shift = end, self._shift + max(image.grid) - (end - first)
        self._positions[:, done:] = np.arange(done, tokens) + self._shift

    def of(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """``[3, end - start]``, of the tokens from ``start`` to below ``end``, of the prompt or of what follows it."""
        prompt = self._positions[:, start:end]
        after = np.arange(start + prompt.shape[1], end) + self._shift
        return np.concatenate([prompt, np.broadcast_to(after, (3, len(after)))], axis=1)


def grid_positions(tokens: int, images: Sequence[SequenceImage]) -> GridPositions | None:
    """A prompt's `GridPositions`; None where they simply count up."""
    return GridPositions(tokens, images) if any(image.grid for image in images) else None


class PlacedImage(NamedTuple):
    """An image of which a flat batch has some tokens, perhaps.

    Attributes:
        image: of a sequence.
        start: the position of the first token that its sequence has in the batch.
        rows: those that this token and the following ones have in the batch.
    """

    image: SequenceImage
    start: int
    rows: range

    def part(self, device: torch.device) -> tuple[torch.Tensor, slice]:
        """The rows of its placeholders in the batch, int64, and which of its features these are."""
        import torch

        first, last = np.searchsorted(self.image.positions, (self.start, self.start + len(self.rows)))
        rows = self.image.positions[first:last].astype(np.int64) + (self.rows.start - self.start)
        return torch.from_numpy(rows).to(device), slice(int(first), int(last))


class ImageEncoder:
    """Runs a model's vision part, and says where its features stand.

    Args:
        model: of transformers, with ``get_image_features``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._in_grids = hasattr(getattr(model, "base_model", model), "get_rope_index")

    def features(self, image: SequenceImage) -> ImageFeatures:
        """In the model's dtype; computed once.

        Raises:
            GenerationFailed: the model makes more or fewer of them than there are placeholders.
        """
        if image.features is None:
            features = image_features(self._model, image.inputs)
            if len(features.embeddings) != len(image.positions):
                raise GenerationFailed(
                    f"The vision model makes {len(features.embeddings)} embeddings of an image with "
                    f"{len(image.positions)} placeholders."
                )
            image.features = features
        return image.features

    def embed(self, token_ids: torch.Tensor, images: Sequence[PlacedImage]) -> torch.Tensor:
        """Embeddings of a flat batch, ``[1, tokens, hidden]``.

        Args:
            token_ids: int64 ``[1, tokens]``.
            images: in the batch.
        """
        ids = token_ids.clone()
        parts = [placed.part(ids.device) for placed in images]
        for rows, _ in parts:
            ids[0, rows] = 0  # Placeholders may have no embedding of their own.
        embeddings: torch.Tensor = self._model.get_input_embeddings()(ids).clone()
        for (rows, part), placed in zip(parts, images, strict=True):
            embeddings[0, rows] = self.features(placed.image).embeddings[part].to(embeddings.dtype)
        return embeddings

    def deeper(self, tokens: int, images: Sequence[PlacedImage]) -> dict[str, Any]:
        """What the language model gets of a flat batch for its deeper layers, by the names of its arguments.

        Args:
            tokens: of the batch.
            images: in the batch.
        """
        import torch

        layers = len(self.features(images[0].image).deeper) if images else 0
        if not layers:
            return {}
        mask = torch.zeros(1, tokens, dtype=torch.bool, device=self._model.device)
        added: list[list[torch.Tensor]] = [[] for _ in range(layers)]
        for placed in sorted(images, key=lambda placed: (placed.rows.start, placed.image.positions[0])):
            rows, part = placed.part(mask.device)
            mask[0, rows] = True
            for layer, features in zip(added, self.features(placed.image).deeper, strict=True):
                layer.append(features[part])
        return {"visual_pos_masks": mask, "deepstack_visual_embeds": [torch.cat(layer) for layer in added]}

    @contextmanager
    def in_deeper_layers(self, tokens: int, images: Sequence[PlacedImage]) -> Iterator[None]:
        """Give the language model, when it is called, what `deeper` says of a batch."""
        deeper = self.deeper(tokens, images)
        if not deeper:
            yield
            return
        hook = self._model.get_decoder().register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, **deeper}), with_kwargs=True
        )
        try:
            yield
        finally:
            hook.remove()

    def positions(
        self, counted: Sequence[int], grids: Sequence[tuple[GridPositions, int, range]]
    ) -> npt.NDArray[np.int64]:
        """Positions of a flat batch, ``[1, tokens]``, or ``[3, 1, tokens]`` where a model has them in three dimensions.

        Args:
            counted: of each token in its own sequence.
            grids: each with the position of the first token of its sequence in the batch, and with the rows of the
                batch that this token and the following ones have.
        """
        positions = np.array([counted], dtype=np.int64)
        if not (self._in_grids and grids):
            return positions
        positions = np.tile(positions, (3, 1, 1))
        for grid, start, rows in grids:
            positions[:, 0, rows.start : rows.stop] = grid.of(start, start + len(rows))
        return positions


def image_features(model: Any, inputs: Any) -> ImageFeatures:
    """What a model's vision part makes of one image.

    Args:
        model: of transformers, with ``get_image_features``.
        inputs: numpy arrays by their names.
    """
    import torch

    tensors = {name: torch.from_numpy(np.asarray(value)).to(model.device) for name, value in inputs.items()}
    tensors = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    output = model.get_image_features(**tensors)
    # From transformers 5 on an output object.
    embeddings = _joined(getattr(output, "pooler_output", output))
    return ImageFeatures(
        embeddings, tuple(_joined(layer) for layer in getattr(output, "deepstack_features", None) or ())
    )


def _joined(features: Any) -> torch.Tensor:
    """``[features, hidden]`` of one tensor per image, or of one of all."""
    import torch

    parts = [features] if isinstance(features, torch.Tensor) else features
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
