"""Images of prompts, as the language model sees them: embeddings in the places of placeholder tokens."""

from __future__ import annotations

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


class ImageEncoder:
    """Runs a model's vision part.

    Args:
        model: of transformers, with ``get_image_features``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

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
