"""Images in prompts: a processor's tokens in the places of placeholders, and which processors are not taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from guidance_core.errors import InvalidRequest
from guidance_core.prompt.images import ImageProcessor
from guidance_core.prompt.model_folder import load_chat_templates
from tests.vision_models import picture, save_gemma3, save_idefics3

IMAGE = 3


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> ImageProcessor:
    folder = save_idefics3(tmp_path_factory.mktemp("idefics3"))
    return ImageProcessor.from_folder(folder, trust_remote_code=False)


def test_equal_images_have_equal_keys_and_others_have_not(processor: ImageProcessor) -> None:
    one, again, other, larger = (
        processor.process(image).key for image in (picture(1), picture(1), picture(2), picture(1, width=80))
    )
    assert one == again
    assert len({one, other, larger}) == 3


def test_an_images_tokens_take_the_place_of_its_placeholder(processor: ImageProcessor) -> None:
    wide, small = processor.process(picture(1, width=100)), processor.process(picture(2))
    ids, (first, second) = processor.place([50, IMAGE, 51, IMAGE, 52], [wide, small])

    assert ids == (50, *wide.token_ids, 51, *small.token_ids, 52)
    assert [ids[position] for position in (*first.positions, *second.positions)] == [IMAGE] * ids.count(IMAGE)
    assert first.positions[-1] < second.positions[0]


def test_text_around_an_image_is_tokenised_together_with_what_stands_for_it(tmp_path: Path) -> None:
    gemma = ImageProcessor.from_folder(save_gemma3(tmp_path), trust_remote_code=False)
    picture_of, text = picture(1), "<|user|>Look:\n<start_of_image>\nWhat is <start_of_image>?</s>"
    ids, images = gemma.place(gemma.encode(text), [gemma.process(picture_of)] * 2)
    own = gemma.together(text, [picture_of] * 2)["input_ids"][0].tolist()
    assert list(ids) == own
    assert gemma.encode("\n\n\n")[0] in own  # the template's line break and the image's two
    assert [ids[position] for image in images for position in image.positions] == [
        gemma.encode("<image_soft_token>")[0]
    ] * 32


@pytest.mark.parametrize(("ids", "words"), [([IMAGE, IMAGE], "2 places"), ([50], "writes only 0 of")])
def test_as_many_images_as_placeholders_are_needed(processor: ImageProcessor, ids: list[int], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        processor.place(ids, [processor.process(picture(1))])


class Tokenizer:
    """A token per character; ``#`` is the placeholder."""

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def convert_tokens_to_ids(self, token: str) -> int:
        return ord(token)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}


class Processor:
    """Two placeholders for an image, and ``extra`` for each further one."""

    image_token: str | None = "#"
    tokenizer = Tokenizer()

    def __init__(self, extra: str = "") -> None:
        self._extra = extra

    def __call__(self, text: list[str], images: list[Any], **_: Any) -> dict[str, Any]:
        written = text[0].replace("#", "##") + self._extra * (len(images) - 1)
        return {
            "input_ids": np.array([self.tokenizer(written)["input_ids"]]),
            "pixel_values": np.stack([np.asarray(image).mean((0, 1)) for image in images]),
        }


def test_a_processor_that_treats_two_images_otherwise_than_each_is_not_taken() -> None:
    assert len(ImageProcessor(Processor(), ord("#")).process(picture(1)).placeholders) == 2
    with pytest.raises(ValueError, match="other tokens for two images"):
        ImageProcessor(Processor(extra="!"), ord("#"))


def test_a_processor_without_placeholders_is_not_taken() -> None:
    nameless = Processor()
    nameless.image_token = None
    with pytest.raises(ValueError, match="image_token"):
        ImageProcessor(nameless, ord("#"))
    with pytest.raises(ValueError, match="no placeholders"):
        ImageProcessor(Processor(), ord("?"))


def test_the_template_of_a_processor_comes_before_the_tokenizers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "of the tokenizer"}')
    (tmp_path / "chat_template.json").write_text('{"chat_template": "of the processor"}')
    assert load_chat_templates(tmp_path) == {"default": "of the processor"}
