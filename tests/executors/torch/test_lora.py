"""Adapters against the same model with the adapter merged into its weights, in float32."""

import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from guidance_core.config import LoraSettings, TorchSettings
from guidance_core.errors import InvalidRequest, RequestError, Unsupported
from guidance_core.executors.torch.engine import Engine
from guidance_core.executors.torch.lora import LoadedAdapter
from guidance_core.executors.torch.lora_cache import LoraCache
from guidance_core.executors.torch.lora_file import BadAdapter
from guidance_core.executors.torch.model_runner import ModelRunner, Segment
from guidance_core.generation import GenerationRequest, LoadLoraWeights, LoraAdapter, SamplingParams
from guidance_core.lora_folder import WEIGHTS_FILE
from tests.executors.torch.adapters import make_model, merge, save_adapter

PROMPT = [5, 17, 60, 3, 8, 44, 9, 91, 23, 71]


class Adapted:
    """A tiny model, some adapters for it, and the models into which these are merged."""

    def __init__(self, folder: Path, *, packed: bool) -> None:
        torch.manual_seed(0)
        self.base = make_model().eval()
        self.base.save_pretrained(folder / "model")
        self.adapters = {
            "all": save_adapter(folder / "lora" / "all", self.base, seed=1),
            "stable": save_adapter(
                folder / "lora" / "stable", self.base, seed=2, rank=2, targets=["q_proj", "down_proj"], use_rslora=True
            ),
        }
        settings = TorchSettings(device="cpu", dtype="float32", max_batch_size=6, num_threads=1, packed_linear=packed)
        self.settings = settings
        self.runner = ModelRunner(
            folder / "model", settings, trust_remote_code=False, lora=LoraSettings(folder=str(folder / "lora"))
        )

    def loaded(self, name: str, id: int = 1) -> LoadedAdapter:
        return LoadedAdapter(id, self.runner.read_adapter(self.adapters[name]))

    def expected(self, name: str | None, tokens: list[int]) -> torch.Tensor:
        """Logits at each token: float32 [tokens, vocabulary]."""
        model = self.base
        if name is not None:
            model = deepcopy(self.base)
            merge(model, self.adapters[name])
        with torch.no_grad():
            return model(input_ids=torch.tensor([tokens])).logits[0]

    def engine(self, max_loaded: int = 4, *, prefix_cache: bool = True) -> Engine:
        settings = self.settings.model_copy(update={"prefix_cache": prefix_cache})
        self.cache = LoraCache(self.runner.read_adapter, max_loaded)
        return Engine(self.runner, None, settings, self.cache)

    def wanted(self, name: str, load: LoadLoraWeights = "auto") -> LoraAdapter:
        return LoraAdapter(name, str(self.adapters[name]), load)

    def greedy(self, name: str | None, count: int) -> list[int]:
        tokens = list(PROMPT)
        for _ in range(count):
            tokens.append(int(self.expected(name, tokens)[-1].argmax()))
        return tokens[len(PROMPT) :]


@pytest.fixture(scope="module", params=[True, False], ids=["packed layers", "plain layers"])
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return Adapted(tmp_path_factory.mktemp("adapted"), packed=request.param)


def ask(lora: LoraAdapter | None, *, max_tokens: int = 6) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return GenerationRequest(request_id="r", prompt_ids=tuple(PROMPT), sampling=sampling, lora=lora)


def run(engine: Engine) -> tuple[dict[int, list[int]], dict[int, RequestError], dict[int, int]]:
    """Step until nothing is left; by request: its tokens, its failure, and what came out of the prefix cache."""
    tokens: dict[int, list[int]] = {}
    failures: dict[int, RequestError] = {}
    cached: dict[int, int] = {}
    while True:
        stepped = engine.step()
        for key, delta in stepped.deltas:
            tokens.setdefault(key, []).extend(delta.token_ids)
            cached.setdefault(key, delta.cached_tokens or 0)
        failures.update(stepped.failures)
        if not (engine.runnable or engine.compiling):
            return tokens, failures, cached


def test_a_mixed_batch_gives_the_logits_of_merged_weights(adapted: Adapted) -> None:
    names = ["all", None, "stable", "all", None]
    loaded = {"all": adapted.loaded("all", 1), "stable": adapted.loaded("stable", 2), None: None}
    lengths = [10, 7, 9, 4, 1]
    segments = [
        Segment(slot, 0, PROMPT[:length], "all", loaded[name])
        for slot, (name, length) in enumerate(zip(names, lengths, strict=True))
    ]

    logits = adapted.runner.forward(segments)

    expected = [adapted.expected(n, PROMPT[:length]) for n, length in zip(names, lengths, strict=True)]
    torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected[0][:7], expected[1], atol=0.05), "the adapter makes a difference"


def test_a_batch_without_adapters_runs_without_any_hook(adapted: Adapted) -> None:
    layer = adapted.runner._model.model.layers[0].self_attn.q_proj
    adapted.runner.forward([Segment(0, 0, PROMPT, "last", adapted.loaded("all"))])
    assert layer._forward_hooks

    adapted.runner.forward([Segment(0, 0, PROMPT, "last")])

    assert not layer._forward_hooks


def test_many_adapters_answer_in_one_batch_as_the_merged_models_do(adapted: Adapted) -> None:
    engine = adapted.engine()
    names = ["all", "stable", None]
    for key, name in enumerate(names):
        engine.submit(key, ask(None if name is None else adapted.wanted(name)))

    tokens, failures, _ = run(engine)

    assert not failures
    assert tokens == {key: adapted.greedy(name, 6) for key, name in enumerate(names)}
    assert engine.stats().steps == 6


def test_the_prefix_cache_keeps_adapters_apart(adapted: Adapted) -> None:
    engine = adapted.engine()
    cached = {}
    for key, name in enumerate([None, "all", "stable", "all", None]):
        engine.submit(key, ask(None if name is None else adapted.wanted(name)))
        cached.update(run(engine)[2])

    assert cached == {0: 0, 1: 0, 2: 0, 3: len(PROMPT) - 1, 4: len(PROMPT) - 1}


def test_an_adapter_that_is_loaded_again_does_not_use_what_the_last_one_cached(adapted: Adapted) -> None:
    engine = adapted.engine()
    engine.submit(0, ask(adapted.wanted("all")))
    run(engine)
    engine.submit(1, ask(adapted.wanted("all", "always")))

    assert run(engine)[2] == {1: 0}


def test_an_adapter_in_use_is_not_dropped_and_the_next_one_waits_for_it(adapted: Adapted) -> None:
    engine = adapted.engine(max_loaded=1)
    engine.submit(0, ask(adapted.wanted("all")))
    engine.submit(1, ask(adapted.wanted("stable")))
    engine.submit(2, ask(adapted.wanted("all")))  # loaded, but behind one that waits
    engine.submit(3, ask(None))
    engine.step()
    assert (adapted.cache.names, engine.stats().running, engine.compiling) == (["all"], 2, True)

    tokens, failures, _ = run(engine)

    assert not failures
    assert [tokens[key][-1] for key in range(4)] == [adapted.greedy(n, 6)[-1] for n in ("all", "stable", "all", None)]
    assert adapted.cache.names == ["all"]


def test_an_adapter_that_must_not_be_loaded_is_only_there_if_it_was(adapted: Adapted) -> None:
    engine = adapted.engine()
    engine.submit(0, ask(adapted.wanted("all", "never")))
    failures = run(engine)[1]
    assert isinstance(failures[0], InvalidRequest)
    assert failures[0].param == "load_lora_weights"

    engine.submit(1, ask(adapted.wanted("all")))
    engine.submit(2, ask(adapted.wanted("all", "never")))
    assert not run(engine)[1]


def test_the_adapter_that_was_used_longest_ago_makes_room(adapted: Adapted) -> None:
    cache = LoraCache(lambda folder: {}, max_loaded=2)
    for name in ("a", "b", "a", "c"):
        cache.release(cache.acquire(LoraAdapter(name, "/adapters")))

    assert cache.names == ["a", "c"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 8}}, "no regular expression"),
        ({"rank": 65}, "lora.max_rank is 64"),
        ({"targets": ["lm_head"]}, "no linear layer 'lm_head'"),
    ],
)
def test_what_is_not_plain_lora_on_a_layer_is_refused_by_name(
    adapted: Adapted, tmp_path: Path, config: dict[str, object], said: str
) -> None:
    folder = save_adapter(tmp_path / "bad", adapted.base, seed=3, **config)  # type: ignore[arg-type]
    with pytest.raises(BadAdapter, match=said):
        adapted.runner.read_adapter(folder)


def test_weights_that_are_no_matrices_are_refused(adapted: Adapted, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "flat", adapted.base, seed=3)
    file = folder / "adapter_model.safetensors"
    save_file({name: torch.tensor(1.0) for name in load_file(file)}, file)

    with pytest.raises(BadAdapter, match=r"has lora_A \[\] and lora_B \[\], but this model needs"):
        adapted.runner.read_adapter(folder)


def test_a_file_that_is_written_over_does_not_change_what_was_read_from_it(adapted: Adapted, tmp_path: Path) -> None:
    first = save_adapter(tmp_path / "first", adapted.base, seed=3)
    second = save_adapter(tmp_path / "second", adapted.base, seed=4)
    expected = {name: delta.down.clone() for name, delta in adapted.runner.read_adapter(first).items()}
    read = adapted.runner.read_adapter(first)

    shutil.copyfile(second / WEIGHTS_FILE, first / WEIGHTS_FILE)

    assert all(torch.equal(read[name].down, down) for name, down in expected.items())


def test_an_alpha_pattern_scales_the_layers_that_it_names(adapted: Adapted, tmp_path: Path) -> None:
    plain = save_adapter(tmp_path / "plain", adapted.base, seed=3)
    scaled = save_adapter(tmp_path / "scaled", adapted.base, seed=3, alpha_pattern={"q_proj": 24})
    a, b = adapted.runner.read_adapter(plain), adapted.runner.read_adapter(scaled)

    ratios = {name.rpartition(".")[2]: float((b[name].up / a[name].up).mean()) for name in a}

    assert ratios == pytest.approx({name: 3 if name == "q_proj" else 1 for name in ratios})


def test_an_adapter_of_another_model_is_refused_with_its_name(adapted: Adapted) -> None:
    folder = adapted.adapters["all"].parent / "other"
    if not folder.exists():
        other = make_model(hidden_size=64)
        save_adapter(folder, other, seed=4)
    engine = adapted.engine()
    engine.submit(0, ask(LoraAdapter("other", str(folder))))

    [error] = run(engine)[1].values()

    assert isinstance(error, Unsupported)
    assert "'other'" in error.message
    assert "but this model needs" in error.message
