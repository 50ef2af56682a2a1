"""Images in prompts: a model's own processor makes of each what the model takes, and the tokens that stand for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guidance_core.errors import InvalidRequest
from guidance_core.generation import PromptImage
from guidance_core.prompt.processor_folder import first_line, load_processor

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
"""What processors make of the text that comes with images."""


@dataclass(frozen=True, slots=True, eq=False)
class ProcessedImage:
    """An image as a model takes it.

    Attributes:
        token_ids: what stands for it in a prompt: placeholders, and tokens that some models write around them.
        placeholders: int32 ``[features]``, rising: where in ``token_ids`` the placeholders are.
        inputs: of the model, by its own names (``pixel_values``, …).
        key: SHA-256 of ``inputs``.
    """

    token_ids: tuple[int, ...]
    placeholders: npt.NDArray[np.int32]
    inputs: Mapping[str, npt.NDArray[Any]]
    key: bytes


class ImageProcessor:
    """A model's processor, one image at a time. Thread-safe.

    Attributes:
        token: what a chat template writes where an image is.
    """

    def __init__(self, processor: Any, placeholder_id: int) -> None:
        """Take a processor of transformers, and check that images can be processed one by one.

        Args:
            processor: as `transformers.AutoProcessor` loads it.
            placeholder_id: the token in whose places the model puts what it sees of an image.

        Raises:
            ValueError: it knows no placeholder, or does other things with two images than with each.
        """
        self._processor = processor
        token = getattr(processor, "image_token", None)
        if not isinstance(token, str):
            raise ValueError(f"{type(processor).__name__} has no placeholder for images ('image_token')")
        self.token = token
        self._token_id = int(processor.tokenizer.convert_tokens_to_ids(token))
        self._placeholder_id = placeholder_id
        added = processor.tokenizer.added_tokens_decoder
        self._ends_of_texts = {self._token_id, placeholder_id, *(id for id, token in added.items() if token.special)}
        self._check()

    @classmethod
    def from_folder(cls, folder: Path, *, trust_remote_code: bool) -> ImageProcessor:
        """Load the processor of a Hugging Face model folder. Brings transformers, torch and Pillow.

        Raises:
            ValueError: it cannot be loaded or used; the message says why.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        placeholder_id = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        if placeholder_id is None:
            raise ValueError("its configuration names no placeholder for images ('image_token_id')")
        processor = load_processor(folder, config, trust_remote_code=trust_remote_code)
        return cls(processor, int(placeholder_id))

    def process(self, image: Image) -> ProcessedImage:
        """What the model takes of one image; takes milliseconds to seconds.

        Args:
            image: of mode RGB.

        Raises:
            ValueError: the processor refuses it.
        """
        outputs = self.together(self.token, [image])
        token_ids = np.asarray(outputs["input_ids"])[0]
        inputs = {name: np.asarray(value) for name, value in outputs.items() if name not in TEXT_INPUTS}
        for name, value in inputs.items():
            if value.dtype == object:
                raise ValueError(f"the processor makes no tensor of {name}")
        return ProcessedImage(
            tuple(token_ids.tolist()),
            np.flatnonzero(token_ids == self._placeholder_id).astype(np.int32),
            inputs,
            _content_hash(inputs),
        )

    def together(self, text: str, images: Sequence[Image]) -> Mapping[str, Any]:
        """What the processor itself makes of a text and its images, as arrays.

        Raises:
            ValueError: it refuses them.
        """
        try:
            outputs: Mapping[str, Any] = self._processor(
                text=[text], images=list(images), add_special_tokens=False, return_tensors="np"
            )
        except Exception as error:  # whatever the image makes it raise
            raise ValueError(first_line(error)) from error
        return outputs

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, one placeholder for each image."""
        token_ids: list[int] = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return token_ids

    def place(
        self, prompt_ids: Sequence[int], images: Sequence[ProcessedImage]
    ) -> tuple[tuple[int, ...], tuple[PromptImage, ...]]:
        """Put images into a prompt, in their order: each in the place of one placeholder.

        Args:
            prompt_ids: of the prompt as the chat template writes it.
            images: at least one.

        Returns:
            The prompt's token ids, and the images with their places in it.

        Raises:
            InvalidRequest: there are more or fewer placeholders than images.
        """
        places = [i for i, token_id in enumerate(prompt_ids) if token_id == self._token_id]
        if len(places) > len(images):
            raise InvalidRequest(
                f"The messages have {len(images)} images, but {len(places)} places for one: {self.token!r} stands for "
                "an image, so leave it out of texts.",
                param="messages",
            )
        if len(places) < len(images):
            raise InvalidRequest(
                f"The model's chat template writes only {len(places)} of the messages' {len(images)} images: leave out "
                "what it drops, or set model.chat_template to one that writes them all.",
                param="messages",
            )
        ids: list[int] = []
        placed: list[PromptImage] = []
        end = 0
        for place, image in zip(places, images, strict=True):
            ids = self._join(self._join(ids, prompt_ids[end:place]), image.token_ids)
            start = len(ids) - len(image.token_ids)
            placed.append(PromptImage(image.placeholders + np.int32(start), image.inputs, image.key))
            end = place + 1
        return tuple(self._join(ids, prompt_ids[end:])), tuple(placed)

    def _join(self, left: list[int], right: Sequence[int]) -> list[int]:
        """Two parts of a prompt, one after the other.

        Where text meets text, it is tokenised as one: what stands for an image of Gemma 3 begins and ends with line
        breaks, of which several in a row are one token. All that follows its first placeholder stays as it is.
        """
        begin = next((i + 1 for i in reversed(range(len(left))) if left[i] in self._ends_of_texts), 0)
        end = next((i for i, token_id in enumerate(right) if token_id in self._ends_of_texts), len(right))
        before, after = left[begin:], list(right[:end])
        if not before or not after:
            return [*left, *right]
        decode = self._processor.tokenizer.decode
        texts = [decode(ids, clean_up_tokenization_spaces=False) for ids in (before, after)]
        if [self.encode(text) for text in texts] != [before, after]:
            return [*left, *right]  # not how the tokenizer itself writes it
        return [*left[:begin], *self.encode("".join(texts)), *right[end:]]

    def _check(self) -> None:
        images = probe_images()
        processed = [self.process(image) for image in images]
        text = f"a{self.token}b {self.token}\nc"
        together = np.asarray(self.together(text, images)["input_ids"])[0].tolist()
        if list(self.place(self.encode(text), processed)[0]) != together:
            raise ValueError(
                f"{type(self._processor).__name__} writes other tokens for two images than for each of them alone"
            )
        if not all(len(image.placeholders) for image in processed):
            raise ValueError(f"{type(self._processor).__name__} writes no placeholders ({self.token!r}) for an image")


def probe_images() -> list[Image]:
    """Two different images, one wide and one high."""
    from PIL import Image

    noise = np.random.default_rng(0)
    return [
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((48, 96), (80, 40))
    ]


def _content_hash(inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = np.ascontiguousarray(inputs[name])
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.data)
    return digest.digest()
