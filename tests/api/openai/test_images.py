"""Images in requests: from the wire to what the executor is asked."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest
from PIL.Image import Image
from transformers import AutoProcessor

from guidance_core.api.images import RequestImages
from guidance_core.api.served_model import LoadedModel
from guidance_core.config import GuidanceSettings, ImageSettings
from guidance_core.executors.base import ModelLimits
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.output import Detokenizer
from guidance_core.prompt import PromptTokenizer
from guidance_core.prompt.images import ImageProcessor
from guidance_core.prompt.tools import ToolUse
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor
from tests.vision_models import picture, save_llava

PER_IMAGE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def processor(folder: Path) -> ImageProcessor:
    return ImageProcessor.from_folder(folder, trust_remote_code=False)


@pytest.fixture
def executor() -> ScriptedExecutor:
    return ScriptedExecutor(ModelLimits(vocab_size=300, max_model_len=256, eos_token_ids=(2,)))


@pytest.fixture
def template() -> str | None:
    """A chat template in place of the model's own."""
    return None


@pytest.fixture
def loaded(folder: Path, processor: ImageProcessor, executor: ScriptedExecutor, template: str | None) -> LoadedModel:
    prompts = PromptTokenizer.from_folder(folder, chat_template=template)
    grammars = GrammarCompiler(load_ll_tokenizer(folder, 300, (2,)), GuidanceSettings())
    images = RequestImages(processor, ImageSettings(max_images=3, max_bytes=20_000, max_pixels=100_000))
    return LoadedModel(
        "llava:1",
        executor,
        prompts,
        ToolUse(prompts),
        None,
        Detokenizer(prompts.tokenizer),
        grammars,
        "fp",
        None,
        images,
    )


def url(image: Image, kind: str = "PNG") -> str:
    data = BytesIO()
    image.save(data, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def part(seed: int, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(picture(seed)), **options}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


async def ask(client: httpx.AsyncClient, *content: dict[str, Any], **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": list(content)}]
    return await client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages, **body})


def expected(folder: Path, messages: list[dict[str, Any]], images: list[Image]) -> list[int]:
    """The prompt as transformers itself writes it."""
    processor = AutoProcessor.from_pretrained(folder)
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    ids: list[int] = processor(text=prompt, images=images, add_special_tokens=False)["input_ids"][0]
    return ids


async def test_images_and_texts_reach_the_model_in_order_as_transformers_writes_them(
    client: httpx.AsyncClient, executor: ScriptedExecutor, folder: Path, processor: ImageProcessor
) -> None:
    image = {"type": "image"}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text("One "), part(1), text(" and "), part(2, detail="auto")]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [part(3), text("?")]},
    ]
    response = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages, "max_tokens": 4})

    assert response.status_code == 200, response.text
    messages[1]["content"] = [text("One "), image, text(" and "), image]
    messages[3]["content"] = [image, text("?")]
    (request,) = executor.requests
    pictures = [picture(seed) for seed in (1, 2, 3)]
    assert list(request.prompt_ids) == expected(folder, messages, pictures)
    assert [image.key for image in request.images] == [processor.process(image).key for image in pictures]
    for image in request.images:
        assert {request.prompt_ids[position] for position in image.positions} == {3}
    usage = response.json()["usage"]
    assert usage["prompt_tokens"] == len(request.prompt_ids)
    assert usage["prompt_tokens_details"]["image_tokens"] == 3 * PER_IMAGE


async def test_all_choices_and_a_stream_share_the_images_of_one_request(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    response = await ask(client, part(1), text("?"), n=2, stream=True, max_tokens=4)

    assert response.status_code == 200
    assert response.text.endswith("data: [DONE]\n\n")
    (request,) = executor.requests
    assert request.sampling.n == 2
    assert len(request.images) == 1


async def test_constraints_and_tools_leave_the_images_in_the_prompt(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": "see", "parameters": schema}}
    constraint = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for body in ({"response_format": constraint}, {"tools": [tool]}):
        await ask(client, text("What "), part(1), text("is this?"), max_tokens=4, **body)

        request = executor.requests[-1]
        assert request.grammar is not None
        assert len(request.images[0].positions) == PER_IMAGE
        assert request.prompt_ids.count(3) == PER_IMAGE


async def test_the_responses_api_takes_images(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    content = [{"type": "input_text", "text": "Look: "}, {"type": "input_image", "image_url": url(picture(1))}]
    body = {"model": MODEL, "input": [{"role": "user", "content": content}], "max_output_tokens": 4}
    response = await client.post("/v1/responses", json=body)

    assert response.status_code == 200, response.text
    await ask(client, text("Look: "), part(1), max_tokens=4)
    one, other = executor.requests
    assert one.prompt_ids == other.prompt_ids
    assert one.images[0].key == other.images[0].key


async def test_tokenize_counts_the_tokens_of_images(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    await ask(client, part(1), text("?"), max_tokens=4)
    messages = [{"role": "user", "content": [part(1), text("?")]}]
    response = await client.post("/tokenize", json={"messages": messages})

    assert response.json()["tokens"] == list(executor.requests[0].prompt_ids)


async def test_the_guidance_dialect_takes_images(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    grammar = {"grammars": [{"lark_grammar": 'start: "yes" | "no"'}]}
    body = {
        "controller": "llguidance",
        "controller_arg": {"grammar": grammar},
        "messages": [{"role": "user", "content": [part(1)]}],
    }
    response = await client.post("/v1/run", json=body)

    assert response.status_code == 200, response.text
    assert len(executor.requests[0].images) == 1


@pytest.mark.parametrize("template", ["{% for m in messages %}{{ m['content'] + '.' }}{% endfor %}"])
async def test_a_template_that_knows_no_parts_gets_the_image_as_text(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    await ask(client, part(1), text("What?"), max_tokens=4)

    (request,) = executor.requests
    words = loaded.prompts.tokenizer.decode(request.prompt_ids, skip_special_tokens=False)
    assert words == "<image>" * PER_IMAGE + "\nWhat?."


BROKEN = "data:image/png;base64," + url(picture(1)).partition(",")[2][:400]


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"type": "image_url"}, "messages[0].content[1].image_url", "must be an object"),
        ({"type": "image_url", "image_url": {}}, "messages[0].content[1].image_url", "must be an object"),
        (part(1, detail="low"), "messages[0].content[1].image_url.detail", "'auto' or 'high'"),
        (part(1, size=3), "messages[0].content[1].image_url.size", "Unknown field"),
        ({"type": "image"}, "messages[0].content[1].type", "parts of type 'text' and 'image_url'"),
        ({"type": "input_audio"}, "messages[0].content[1].type", "text and images only"),
        ({"type": "image_url", "image_url": {"url": "x"}}, "messages[0].content[1].image_url.url", "not 'x'"),
        ({"type": "image_url", "image_url": {"url": BROKEN}}, "messages[0].content[1].image_url.url", "damaged"),
        (
            {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}},
            "messages[0].content[1].image_url.url",
            "images.fetch",
        ),
    ],
)
async def test_a_bad_image_is_a_400_that_names_its_place(
    client: httpx.AsyncClient, executor: ScriptedExecutor, given: dict[str, Any], param: str, words: str
) -> None:
    response = await ask(client, text("Look: "), given)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert not executor.requests


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: [part(1)] * 4, "3 are taken at most"),
        (lambda: [part(1), text("<image>")], "2 places"),
        (lambda: [{"type": "image_url", "image_url": {"url": url(PIL.Image.new("RGB", (400, 300)))}}], "pixels"),
    ],
)
async def test_too_much_of_images_is_a_400(
    client: httpx.AsyncClient, executor: ScriptedExecutor, make: Callable[[], list[dict[str, Any]]], words: str
) -> None:
    response = await ask(client, *make())

    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


async def test_only_the_user_shows_images(client: httpx.AsyncClient) -> None:
    messages = [{"role": "system", "content": [part(1)]}, {"role": "user", "content": "Hi"}]
    response = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})

    assert response.status_code == 400
    assert "role 'user'" in response.json()["error"]["message"]


async def test_a_prompt_with_images_is_not_cut(client: httpx.AsyncClient) -> None:
    response = await ask(client, text("A long text before "), part(1), truncate_prompt_tokens=8)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "truncate_prompt_tokens"


async def test_images_that_leave_no_room_for_an_answer_are_a_400(client: httpx.AsyncClient) -> None:
    response = await ask(client, part(1), text("?" * 240), max_tokens=4)

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/chat/completions", 400), ("/tgi/v1/chat/completions", 422), ("/tokenize", 400), ("/v1/run", 400)],
)
async def test_without_a_model_for_them_images_are_refused_in_every_dialect(
    client: httpx.AsyncClient, loaded: LoadedModel, executor: ScriptedExecutor, path: str, status: int
) -> None:
    object.__setattr__(loaded, "images", None)  # frozen for all but this test
    object.__setattr__(loaded, "no_images", "the executor 'triton' takes text only")
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [part(1)]}]}
    if path == "/v1/run":
        body |= {"controller": "llguidance", "controller_arg": {"grammar": {"grammars": [{"lark_grammar": "start: "}]}}}
    response = await client.post(path, json={"model": MODEL, **body} if path.startswith("/v1/chat") else body)

    assert response.status_code == status  # text-generation-inference's own is 422
    assert "the executor 'triton' takes text only" in response.text
    assert not executor.requests
