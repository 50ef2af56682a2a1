"""A model that takes images, packed and served, asked by the real client."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from transformers import AutoConfig, AutoModelForImageTextToText

from guidance_core.prompt.processor_folder import load_processor
from tests.integration.conftest import ROOT, serving
from tests.vision_models import picture, save_qwen2_5_vl

NAME = "tiny-vision"
NEW_TOKENS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen2_5_vl(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    home = tmp_path_factory.mktemp("home")
    environment = {"BENTOML_HOME": str(home), "GUIDED_TRTLLM_MODEL__TAG": NAME}
    command = [sys.executable, "pack_model.py", str(folder), "--name", NAME]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True)
    options = {"GUIDED_TRTLLM_TORCH__DTYPE": "float32", "GUIDED_TRTLLM_TORCH__NUM_THREADS": "1"}
    with serving(home / "log.txt", **environment, **options) as server:
        yield OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def image(seed: int) -> dict[str, Any]:
    data = BytesIO()
    picture(seed, width=100).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def conversation(*seeds: int) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": "Compare: "}, *map(image, seeds)]}]


def expected(folder: Path, *seeds: int) -> str:
    """What transformers answers."""
    processor = load_processor(folder, AutoConfig.from_pretrained(folder), trust_remote_code=False)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    content = [{"type": "text", "text": "Compare: "}, *({"type": "image"} for _ in seeds)]
    messages = [{"role": "user", "content": content}]
    prompt = processor.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    pictures = [picture(seed, width=100) for seed in seeds]
    inputs = processor(text=prompt, images=pictures, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    text: str = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def test_images_are_answered_as_transformers_does_streamed_or_not(client: OpenAI, folder: Path) -> None:
    for seeds in ((1,), (2,), (1, 2)):
        options: dict[str, Any] = {"model": NAME, "max_tokens": NEW_TOKENS, "temperature": 0}
        whole = client.chat.completions.create(messages=conversation(*seeds), **options)
        pieces = client.chat.completions.create(messages=conversation(*seeds), stream=True, **options)

        assert whole.choices[0].message.content == expected(folder, *seeds)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert streamed == whole.choices[0].message.content


def test_the_model_is_listed_as_one_that_takes_images(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.model_dump()["executor"] == {"name": "torch", "images": "yes"}


def test_a_schema_holds_for_what_is_said_of_an_image(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"seen": {"enum": ["cat", "dog"]}},
        "required": ["seen"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=NAME,
        messages=conversation(3),
        n=2,
        response_format={"type": "json_schema", "json_schema": {"name": "seen", "schema": schema}},
    )
    for choice in answer.choices:
        assert json.loads(choice.message.content or "")["seen"] in ("cat", "dog")


def test_a_damaged_image_is_a_400(client: OpenAI) -> None:
    part = image(1)
    part["image_url"]["url"] = part["image_url"]["url"][:502]
    with pytest.raises(BadRequestError, match="damaged"):
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": [part]}])
