"""Images of prompts, as the language model sees them: embeddings in the places of placeholder tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guidance_core.errors import GenerationFailed
from guidance_core.generation import PromptImage

if TYPE_CHECKING:
    import torch


class SequenceImage:
    """An image of a prompt; the choices of a request share it, and with it what the vision model makes of it.

    Attributes:
        positions: int32 ``[features]``, rising: of its placeholders in the prompt.
        inputs: of the vision model.
        key: their SHA-256.
        features: ``[features, hidden]``, once the vision model has run.
    """

    __slots__ = ("features", "inputs", "key", "positions")

    def __init__(self, image: PromptImage) -> None:
        self.positions = image.positions
        self.inputs = image.inputs
        self.key = image.key
        self.features: torch.Tensor | None = None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of its placeholders, where the vision model says them (``image_grid_thw``, as in Qwen2-VL).

        None elsewhere, and where the placeholders are not such a grid, one after the other.
        """
        patches = self.inputs.get("image_grid_thw")
        tokens = len(self.positions)
        if patches is None or self.positions[-1] - self.positions[0] != tokens - 1:
            return None
        times, *sides = np.asarray(patches).reshape(-1).tolist()
        merged = max(1, math.isqrt(math.prod(sides) // tokens))
        rows, columns = (side // merged for side in sides)
        return (rows, columns) if times == 1 and rows * columns == tokens else None

    def lies_in(self, start: int, end: int) -> bool:
        """Whether any of its placeholders has a position from ``start`` to below ``end``."""
        return bool(np.searchsorted(self.positions, start) < np.searchsorted(self.positions, end))


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


class ImageEncoder:
    """Runs a model's vision part, and says where its features stand.

    Args:
        model: of transformers, with ``get_image_features``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._in_grids = hasattr(getattr(model, "base_model", model), "get_rope_index")

    def features(self, image: SequenceImage) -> torch.Tensor:
        """``[features, hidden]`` in the model's dtype; computed once.

        Raises:
            GenerationFailed: the model makes more or fewer of them than there are placeholders.
        """
        if image.features is None:
            features = image_features(self._model, image.inputs)
            if len(features) != len(image.positions):
                raise GenerationFailed(
                    f"The vision model makes {len(features)} embeddings of an image with {len(image.positions)} "
                    "placeholders."
                )
            image.features = features
        return image.features

    def embed(self, token_ids: torch.Tensor, images: Sequence[tuple[SequenceImage, int, range]]) -> torch.Tensor:
        """Embeddings of a flat batch, ``[1, tokens, hidden]``.

        Args:
            token_ids: int64 ``[1, tokens]``.
            images: each with the position of the first token of its sequence in the batch, and with the rows of the
                batch that this token and the following ones have.
        """
        import torch

        # Placeholders may have no embedding of their own.
        ids = token_ids.clone()
        merged: list[tuple[torch.Tensor, torch.Tensor]] = []
        for image, start, rows in images:
            first, last = np.searchsorted(image.positions, (start, start + len(rows)))
            index = torch.from_numpy(image.positions[first:last].astype(np.int64) + (rows.start - start))
            index = index.to(ids.device)
            ids[0, index] = 0
            merged.append((index, self.features(image)[first:last]))
        embeddings: torch.Tensor = self._model.get_input_embeddings()(ids).clone()
        for index, features in merged:
            embeddings[0, index] = features.to(embeddings.dtype)
        return embeddings

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


def image_features(model: Any, inputs: Any) -> torch.Tensor:
    """What a model's vision part makes of one image, ``[features, hidden]``.

    Args:
        model: of transformers, with ``get_image_features``.
        inputs: numpy arrays by their names.
    """
    import torch

    tensors = {name: torch.from_numpy(np.asarray(value)).to(model.device) for name, value in inputs.items()}
    tensors = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    output = model.get_image_features(**tensors)
    # From transformers 5 on an output object; one tensor per image, or one of all.
    features = getattr(output, "pooler_output", output)
    if not isinstance(features, torch.Tensor):
        features = torch.cat([part.reshape(-1, part.shape[-1]) for part in features])
    return features.reshape(-1, features.shape[-1])
