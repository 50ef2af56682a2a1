"""The runner against `transformers`' own `generate`, token for token, for architectures of every kind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from guidance_core.config import ModelSettings, Settings, TorchSettings
from guidance_core.executors.torch.messages import Load
from guidance_core.executors.torch.model_runner import ModelRunner, Segment
from guidance_core.executors.torch.worker import prepare

VOCAB = 160
NEW_TOKENS = 20
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2_SIZES = {"vocab_size": VOCAB, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128, "eos_token_id": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

SERVED = {
    "llama": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True, "attention_bias": True}),
    "qwen2, some layers with a window": (
        "Qwen2Config",
        {**SIZES, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 16}),
    "mistral with a window": ("MistralConfig", {**SIZES, "sliding_window": 8}),
    "gemma2 with softcaps": (
        "Gemma2Config",
        {**SIZES, "head_dim": 16, "sliding_window": 8, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 20},
    ),
    "gemma3": ("Gemma3TextConfig", {**SIZES, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20}),
    "phi3": ("Phi3Config", SIZES),
    "gpt2": ("GPT2Config", GPT2_SIZES),
    "gpt-neox": ("GPTNeoXConfig", {**SIZES, "num_key_value_heads": 4}),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 96, "word_embed_proj_dim": 48}),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        {**SIZES, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 32},
    ),
    "gpt-oss with sinks": (
        "GptOssConfig",
        {**SIZES, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "deepseek-v3 with latent attention": (
        "DeepseekV3Config",
        {
            **SIZES,
            **EXPERTS,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 12,
            "first_k_dense_replace": 1,
        },
    ),
}

REFUSED = {
    "chunked attention": (
        "Llama4TextConfig",
        {**SIZES, "attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 64, "head_dim": 16},
        "mask that is neither causal nor a sliding window",
    ),
    "a state instead of attention": (
        "MambaConfig",
        {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2},
        "attention interface",
    ),
    "short convolutions between attention layers": (
        "Lfm2Config",
        {**SIZES, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
        "Lfm2ForCausalLM",
    ),
    "attention code of its own": (
        "FalconConfig",
        {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        "attention interface",
    ),
}


def save_model(folder: Path, config_class: str, options: dict[str, object]) -> transformers.PreTrainedModel:
    """A model of random weights, large enough that its answers depend on every token."""
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**options)
    # Some versions choose an attention for Gemma 2 that leaves its softcaps out.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
            elif "sinks" in name:
                parameter.normal_()
    model.save_pretrained(folder)
    return model


def load(folder: Path, **options: object) -> ModelRunner:
    defaults = {"device": "cpu", "dtype": "float32", "max_batch_size": 6, "num_threads": 1}
    return ModelRunner(folder, TorchSettings(**{**defaults, **options}), trust_remote_code=False)


def prompts(vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, vocab_size, (n,), generator=generator).tolist() for n in (30, 7, 19, 1, 12)]


def generate(model: transformers.PreTrainedModel, prompt: list[int]) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def greedy(runner: ModelRunner, prompts: list[list[int]], chunk: int, slots: tuple[int, ...]) -> list[list[int]]:
    """Answers to prompts that join the batch one step after another, prefilled in chunks."""
    tokens = [list(prompt) for prompt in prompts]
    done = [0] * len(prompts)
    ends = [len(prompt) + NEW_TOKENS for prompt in prompts]
    step = 0
    while any(len(own) < end for own, end in zip(tokens, ends, strict=True)):
        step += 1
        live = [i for i in range(min(step, len(prompts))) if len(tokens[i]) < ends[i]]
        segments = []
        for i in live:
            piece = tokens[i][done[i] : done[i] + chunk]
            whole = done[i] + len(piece) == len(tokens[i])
            segments.append(Segment(slots[i], done[i], piece, "last" if whole else "none"))
            done[i] += len(piece)
        logits = runner.forward(segments)
        sampled = [i for i, segment in zip(live, segments, strict=True) if segment.logits == "last"]
        assert logits.shape == (len(sampled), runner.vocab_size)
        for i, token in zip(sampled, logits.argmax(-1).tolist(), strict=True):
            tokens[i].append(token)
    return [own[len(prompt) :] for own, prompt in zip(tokens, prompts, strict=True)]


def check_against_generate(runner: ModelRunner, model: transformers.PreTrainedModel) -> None:
    asked = prompts(runner.vocab_size)
    expected = [generate(model, prompt) for prompt in asked]
    assert len({token for answer in expected for token in answer}) > 5
    assert [greedy(runner, [prompt], 100, (2,))[0] for prompt in asked] == expected
    assert greedy(runner, asked, 100, (4, 0, 5, 2, 1)) == expected
    assert greedy(runner, asked, 5, (0, 1, 2, 3, 4)) == expected
    whole = asked[0] + expected[0]
    with torch.no_grad():
        plain = model(torch.tensor([whole])).logits[0]
    runner.forward([Segment(0, 0, whole, "none")])
    runner.copy_prefix(0, 5, 25)
    logits = runner.forward([Segment(5, 25, whole[25:], "all")])
    torch.testing.assert_close(logits, plain[25:], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("config_class", "options"), SERVED.values(), ids=SERVED)
def test_greedy_answers_are_those_of_generate_alone_and_in_any_batch(tmp_path, config_class, options):
    model = save_model(tmp_path, config_class, options)
    check_against_generate(load(tmp_path), model)


def test_unpacked_layers_give_the_same_answers(tmp_path):
    model = save_model(tmp_path, *SERVED["llama"])
    check_against_generate(load(tmp_path, packed_linear=False), model)


@pytest.mark.parametrize(("config_class", "options", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_would_run_wrong_is_refused_by_name(tmp_path, config_class, options, reason):
    model = save_model(tmp_path, config_class, options)
    with pytest.raises(ValueError, match=reason) as refusal:
        load(tmp_path)
    assert type(model).__name__ in str(refusal.value)


def test_an_encoder_decoder_model_is_refused(tmp_path):
    transformers.T5Config(vocab_size=VOCAB, d_model=48).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="t5 is an encoder-decoder model"):
        load(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Cannot load a language model from"):
        load(tmp_path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_model(folder, *SERVED["llama"])
    return folder


@pytest.fixture(scope="module")
def runner(llama) -> ModelRunner:
    return load(llama)


def test_logits_come_for_the_tokens_asked_for_in_the_order_of_the_segments(runner):
    ids = list(range(10, 22))
    whole = runner.forward([Segment(0, 0, ids, "all")])
    assert whole.shape == (12, VOCAB)
    assert whole.dtype == torch.float32
    runner.forward([Segment(1, 0, ids[:4], "none"), Segment(2, 0, ids[:8], "none"), Segment(4, 0, ids[:11], "none")])
    mixed = runner.forward(
        [
            Segment(2, 8, ids[8:10], "all"),
            Segment(4, 11, ids[11:], "last"),
            Segment(3, 0, ids[:3], "none"),
            Segment(1, 4, ids[4:9], "last"),
        ]
    )
    torch.testing.assert_close(mixed, whole[[8, 9, 11, 8]], atol=1e-4, rtol=1e-4)


def test_no_logits_are_an_empty_tensor(runner):
    assert runner.forward([Segment(0, 0, [5, 6], "none")]).shape == (0, VOCAB)


def test_logits_are_the_callers_to_change(runner):
    first = runner.forward([Segment(0, 0, [5, 6, 7], "last")])
    kept = first.clone()
    first.fill_(-torch.inf)
    assert torch.equal(runner.forward([Segment(0, 0, [5, 6, 7], "last")]), kept)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2 with softcaps"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_waits_for_the_logits_is_called_once_between_the_last_layer_and_them(tmp_path, architecture, dtype):
    save_model(tmp_path, *SERVED[architecture])
    runner = load(tmp_path, dtype=dtype)
    model, order = runner._model, []
    model.base_model.register_forward_hook(lambda *_: order.append("layers"))
    model.get_output_embeddings().register_forward_hook(lambda *_: order.append("logits"))
    for segments in ([Segment(0, 0, [5, 6], "none"), Segment(1, 0, [7], "last")], [Segment(0, 2, [8, 9], "all")]):
        runner.forward(segments, before_logits=lambda: order.append("called"))
        assert order == ["layers", "called", "logits"]
        order.clear()
    runner.forward([Segment(0, 4, [8], "last")])
    assert order == ["layers", "logits"]


def test_a_row_does_not_depend_on_what_its_neighbours_slots_hold(runner):
    runner.forward([Segment(0, 0, [5, 6, 7], "none"), Segment(1, 0, [9] * 40, "none")])
    batch = [Segment(0, 3, [8], "last"), Segment(1, 40, [9], "last")]
    before = runner.forward(batch)[0]
    runner.forward([Segment(1, 0, [77] * 40, "none"), Segment(2, 0, [33] * 60, "none")])
    torch.testing.assert_close(runner.forward(batch)[0], before)


def test_bfloat16_logits_are_close_to_those_of_float32(llama, runner):
    ids = list(range(3, 40))
    exact = runner.forward([Segment(0, 0, ids, "all")])
    rounded = load(llama, dtype="bfloat16").forward([Segment(0, 0, ids, "all")])
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.1 * exact.norm()


def test_warming_up_leaves_the_runner_as_it_was(runner):
    ids = [5, 6, 7]
    before = runner.forward([Segment(0, 0, ids, "last")])
    runner.warm_up()
    assert torch.equal(runner.forward([Segment(0, 0, ids, "last")]), before)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda folder: None, (2,)),
        (lambda folder: write(folder / "generation_config.json", {"eos_token_id": [7, 9]}), (7, 9)),
        (lambda folder: write(folder / "generation_config.json", {}), (2,)),
        (lambda folder: (folder / "generation_config.json").unlink(), (2,)),
    ],
    ids=["as saved", "a list", "not in the generation config", "no generation config"],
)
def test_end_tokens_come_from_the_generation_config_else_from_the_config(tmp_path, edit: Callable, expected):
    save_model(tmp_path, *SERVED["llama"])
    edit(tmp_path)
    assert load(tmp_path).eos_token_ids == expected


def write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content))


def test_end_token_of_the_default_model(model_path):
    assert load(model_path, max_model_len=64).eos_token_ids == (2,)


def test_context_is_the_models_own_unless_set_lower(llama, runner):
    assert runner.max_model_len == 128
    assert load(llama, max_model_len=50).max_model_len == 50
    with pytest.raises(ValueError, match=r"max_model_len is 129.*set it to 128 or less"):
        load(llama, max_model_len=129)


def test_context_ends_where_rotary_positions_would_depend_on_the_batch(tmp_path):
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [4.0] * 6, "rope_theta": 1e4}
    options = {**SIZES, "original_max_position_embeddings": 64, "rope_parameters": rope}
    save_model(tmp_path, "Phi3Config", options)
    assert load(tmp_path).max_model_len == 64


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_so(llama):
    with pytest.raises(ValueError, match="PyTorch sees no CUDA device"):
        load(llama, device="cuda")
    assert load(llama, device="auto").device == torch.device("cpu")


def test_the_end_token_can_be_set_but_not_a_wrong_width(tmp_path: Path, model_path: Path) -> None:
    save_model(tmp_path, "LlamaConfig", SIZES)
    (tmp_path / "tokenizer.json").write_bytes((model_path / "tokenizer.json").read_bytes())
    torch_settings = TorchSettings(device="cpu", dtype="float32", max_batch_size=2, num_threads=1)
    _, ready = prepare(Load(tmp_path, Settings(torch=torch_settings, model=ModelSettings(eos_token="<|im_start|>"))))
    assert ready.limits.eos_token_ids == (1,)
    with pytest.raises(ValueError, match=rf"n_vocab_override is 7, but the model's logits are {VOCAB} wide"):
        prepare(Load(tmp_path, Settings(torch=torch_settings, model=ModelSettings(n_vocab_override=7))))
