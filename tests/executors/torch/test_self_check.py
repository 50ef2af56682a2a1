"""The check of a loaded model passes where all is right, and sees what is not."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4TextConfig, LlamaConfig, MistralConfig

from guidance_core.config import TorchSettings
from guidance_core.executors.torch.model_runner import ModelRunner
from guidance_core.executors.torch.self_check import check_logits, check_masks, reference_logits

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def make_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    make_model(LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(params=["float32", "bfloat16"])
def parts(request, folder):
    """What `check_logits` takes, with a cache that has not been used."""
    dtype = getattr(torch, request.param)
    settings = TorchSettings(device="cpu", dtype=request.param, max_batch_size=2, num_threads=1)
    runner = ModelRunner(folder, settings, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model, reference_logits(model, CPU), dtype, runner.forward, runner.copy_prefix


def test_a_right_runner_passes(parts):
    check_logits(*parts)


def test_positions_that_are_off_by_one_are_seen(parts):
    *rest, forward, copy_prefix = parts
    with pytest.raises(ValueError, match="in chunks its logits differ"):
        check_logits(
            *rest, lambda segments: forward([replace(s, start=s.start + (s.start > 0)) for s in segments]), copy_prefix
        )


def test_a_prefix_that_is_not_there_is_seen(parts):
    *rest, forward, _ = parts
    with pytest.raises(ValueError, match="in chunks its logits differ"):
        check_logits(*rest, forward, lambda source, target, length: None)


def test_rows_of_a_batch_that_are_swapped_are_seen(parts):
    *rest, forward, copy_prefix = parts

    def swapped(segments):
        logits = forward(segments)
        return logits.flip(0) if len(logits) == 2 else logits

    with pytest.raises(ValueError, match="in batches its logits differ"):
        check_logits(*rest, swapped, copy_prefix)


def test_logits_that_are_no_numbers_are_seen(parts):
    *rest, forward, copy_prefix = parts
    with pytest.raises(ValueError, match="over the KV cache its logits differ"):
        check_logits(*rest, lambda segments: forward(segments) * torch.nan, copy_prefix)


@pytest.mark.parametrize(
    "config", [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=8)], ids=["all", "window"]
)
def test_masks_that_attention_follows_pass(config):
    check_masks(make_model(config), 64, CPU)


def test_a_mask_is_judged_at_the_end_of_the_context():
    chunked = {"attention_chunk_size": 32, "num_local_experts": 2, "intermediate_size_mlp": 64, "head_dim": 16}
    model = make_model(Llama4TextConfig(**SIZES, **chunked))
    check_masks(model, 32, CPU)
    with pytest.raises(ValueError, match="of its 2 attention layers have a mask"):
        check_masks(model, 64, CPU)
