"""Images on the embedded executor, against `transformers`' own `generate`, token for token."""

from __future__ import annotations

import gc
import string
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from llguidance import LLMatcher
from packaging.version import Version
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils.import_utils import is_torchvision_available

from guidance_core.config import ModelSettings, Settings, TorchSettings
from guidance_core.executors.torch import images
from guidance_core.executors.torch.engine import Engine
from guidance_core.executors.torch.messages import Load
from guidance_core.executors.torch.worker import prepare
from guidance_core.generation import GenerationRequest, Grammar, SamplingParams
from guidance_core.prompt.images import ImageProcessor
from guidance_core.prompt.processor_folder import load_processor
from tests import vision_models
from tests.vision_models import picture

NEW_TOKENS = 12


needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="torchvision is not installed")

needs_torchvision_in_older_versions = pytest.mark.skipif(
    not is_torchvision_available() and Version(transformers.__version__) < Version("5.23"),
    reason="this version of transformers wants torchvision for it",
)


class Served:
    """A model folder in an engine, and as transformers itself runs it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        defaults = {"device": "cpu", "dtype": "float32", "max_batch_size": 6, "num_threads": 1}
        self.folder = folder
        self.engine = self.another_engine(**{**defaults, **options})
        self.images = ImageProcessor.from_folder(folder, trust_remote_code=False)
        self.processor = load_processor(folder, AutoConfig.from_pretrained(folder), trust_remote_code=False)
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        message = {"role": "user", "content": [{"type": "image"}]}
        rendered = self.processor.tokenizer.apply_chat_template([message], tokenize=False)
        self.image = rendered.removeprefix("<|user|>").removesuffix("</s>")
        self._keys = iter(range(10**6))

    def another_engine(self, **options: Any) -> Engine:
        settings = Settings(model=ModelSettings(tag="tiny"), torch=TorchSettings(**options))
        engine, ready = prepare(Load(self.folder, settings))
        assert ready.no_images is None
        return engine

    def request(self, text: str, *seeds: int, n: int = 1, **sizes: int) -> GenerationRequest:
        ids, images = tuple(self.images.encode(text.replace("IMAGE", self.image))), ()
        if seeds:
            ids, images = self.images.place(ids, [self.images.process(picture(seed, **sizes)) for seed in seeds])
        sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True, n=n)
        return GenerationRequest(request_id=text, prompt_ids=ids, sampling=sampling, images=images)

    def answers(self, *requests: GenerationRequest, engine: Engine | None = None) -> list[list[int]]:
        """The tokens of each request's choices, in order; all run together."""
        engine = engine or self.engine
        keys = [next(self._keys) for _ in requests]
        choices = [
            (key, index) for key, request in zip(keys, requests, strict=True) for index in range(request.sampling.n)
        ]
        tokens: dict[tuple[int, int], list[int]] = {choice: [] for choice in choices}
        self.cached: dict[int, int] = {}
        for key, request in zip(keys, requests, strict=True):
            engine.submit(key, request)
        while engine.runnable or engine.compiling:
            stepped = engine.step()
            assert not stepped.failures
            for key, delta in stepped.deltas:
                if delta.cached_tokens is not None:
                    self.cached[keys.index(key)] = delta.cached_tokens
                tokens[key, delta.index] += delta.token_ids
        return [tokens[choice] for choice in choices]

    def expected(self, text: str, *seeds: int, allowed: list[int] | None = None, **sizes: int) -> list[int]:
        """What transformers answers, of the tokens that are allowed."""
        pictures = [picture(seed, **sizes) for seed in seeds] or None
        text = text.replace("IMAGE", self.image)
        inputs = self.processor(text=text, images=pictures, return_tensors="pt", add_special_tokens=False)
        self.model.generation_config.eos_token_id = None
        constraint = {} if allowed is None else {"prefix_allowed_tokens_fn": lambda *_: allowed}
        output = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **constraint)
        return output[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl", "gemma3"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(getattr(vision_models, f"save_{request.param}")(tmp_path_factory.mktemp(request.param)))


def test_an_image_is_answered_as_transformers_does(served: Served) -> None:
    text = "<|user|>What is IMAGE this?</s><|assistant|>"
    assert served.answers(served.request(text, 1)) == [served.expected(text, 1)]


def test_the_answer_depends_on_the_image(served: Served) -> None:
    text = "IMAGE?"
    one, other = served.answers(served.request(text, 1), served.request(text, 2))
    assert one != other
    assert [one, other] == [served.expected(text, 1), served.expected(text, 2)]


def test_several_images_keep_their_order(served: Served) -> None:
    text = "a IMAGE b IMAGEIMAGE c"
    assert served.answers(served.request(text, 1, 2, 3)) == [served.expected(text, 1, 2, 3)]
    assert served.expected(text, 1, 2, 3) != served.expected(text, 3, 2, 1)


def test_images_and_texts_share_a_batch(served: Served) -> None:
    prompts: list[tuple[str, tuple[int, ...]]] = [
        ("Just text.", ()),
        ("IMAGE", (4,)),
        ("More text than before, so that it is a chunk of its own.", ()),
        ("x IMAGE y IMAGE", (5, 4)),
    ]
    together = served.answers(*(served.request(text, *seeds) for text, seeds in prompts))
    assert together == [served.expected(text, *seeds) for text, seeds in prompts]


@pytest.mark.parametrize("chunk", [16, 21])
def test_a_prompt_may_be_run_in_chunks_that_cut_its_images(served: Served, chunk: int) -> None:
    engine = served.another_engine(
        device="cpu", dtype="float32", max_batch_size=2, num_threads=1, max_num_tokens=chunk, prefix_cache=False
    )
    text = "a IMAGE b IMAGE c"
    assert served.answers(served.request(text, 1, 2), engine=engine) == [served.expected(text, 1, 2)]


def test_a_prefix_with_the_same_image_is_not_run_again(served: Served) -> None:
    text = "IMAGE first question"
    served.answers(served.request(text, 7))
    text += " and a second one"
    assert served.answers(served.request(text, 7)) == [served.expected(text, 7)]
    assert served.cached[0] == len(served.request("IMAGE first question", 7).prompt_ids)


def test_another_image_in_the_same_place_is_not_taken_from_the_cache(served: Served) -> None:
    text = "Look here: IMAGE what is it?"
    served.answers(served.request(text, 8))
    assert served.answers(served.request(text, 9)) == [served.expected(text, 9)]
    assert served.cached[0] == served.request(text, 9).images[0].positions[0]


def test_placeholders_without_an_image_are_not_taken_for_one(served: Served) -> None:
    with_image = served.request("What is IMAGE then?", 10)
    placeholders_only = replace(with_image, images=())
    one, other = served.answers(with_image), served.answers(placeholders_only)
    assert one != other
    assert served.cached[0] == with_image.images[0].positions[0]


def test_choices_share_one_run_of_the_image(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    features = images.image_features
    monkeypatch.setattr(images, "image_features", lambda *args: runs.append(1) or features(*args))
    text = "Three times IMAGE"
    assert served.answers(served.request(text, 11, n=3)) == [served.expected(text, 11)] * 3
    assert len(runs) == 1


def test_forced_tokens_follow_an_image(served: Served) -> None:
    text, forced, letters = "What is IMAGE?", "<answer>It shows ", string.ascii_lowercase
    grammar = Grammar(LLMatcher.grammar_from_regex(forced + "[a-z]{12}"), "regex", "", "shows")
    request = served.request(text, 13)
    request = replace(request, grammar=grammar, sampling=replace(request.sampling, max_tokens=60))
    [tokens] = served.answers(request, served.request("a text beside it"))[:1]
    prefix, allowed = served.images.encode(forced), served.images.encode(letters)
    assert tokens == prefix + served.expected(text + forced, 13, allowed=allowed)
    assert served.engine.stats().forced_tokens >= len(prefix)


def test_nothing_of_an_image_is_kept_once_its_tokens_are_run(served: Served) -> None:
    request = served.request("IMAGE", 12)
    pixels = weakref.ref(request.images[0].inputs["pixel_values"])
    served.engine.submit(10**6, request)
    del request
    served.engine.step()
    gc.collect()
    assert pixels() is None
    served.engine.abort(10**6)


@pytest.mark.parametrize(
    "save",
    [
        vision_models.save_llava_next,
        vision_models.save_idefics3,
        vision_models.save_smolvlm,
        vision_models.save_internvl,
        vision_models.save_llava_onevision,
        pytest.param(vision_models.save_mistral3, marks=needs_torchvision),
        vision_models.save_qwen2_vl,
        vision_models.save_qwen3_vl,
        vision_models.save_qwen3_vl_moe,
        vision_models.save_glm4v,
        pytest.param(vision_models.save_gemma4, marks=needs_torchvision_in_older_versions),
    ],
)
def test_images_of_any_size(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    served = Served(save(tmp_path))
    text = "Compare IMAGE with IMAGE now"
    for sizes in ({"width": 60, "height": 30}, {"width": 30, "height": 60}, {"width": 20, "height": 20}):
        assert served.answers(served.request(text, 1, 2, **sizes)) == [served.expected(text, 1, 2, **sizes)]


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_a_processor_that_needs_torchvision_says_so(tmp_path: Path) -> None:
    settings = Settings(torch=TorchSettings(device="cpu", dtype="float32", num_threads=1, max_batch_size=2))
    _, ready = prepare(Load(vision_models.save_mistral3(tmp_path), settings))
    assert ready.no_images is not None
    assert "pip install torchvision" in ready.no_images


def test_what_the_model_itself_does_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_order = images.GridPositions.of
    monkeypatch.setattr(images.GridPositions, "of", lambda *args: in_order(*args)[[0, 2, 1]])
    settings = Settings(torch=TorchSettings(device="cpu", dtype="float32", num_threads=1, max_batch_size=2))
    _, ready = prepare(Load(vision_models.save_qwen2_vl(tmp_path), settings))
    assert ready.no_images is not None
    assert "neither count up nor are those of Qwen2-VL" in ready.no_images
