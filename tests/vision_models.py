"""Tiny models with random weights that take images, with their tokenizers and processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from PIL.Image import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Content parts in their order, as the templates of such models write them."""

_SIDE = 28
_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": _SIDE,
    "patch_size": 7,
}
_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


def tokenizer(
    folder: Path, image_tokens: list[str], *, template: str | None = None, **named: str
) -> PreTrainedTokenizerFast:
    """One token per byte, and the special ones; ``named`` are those that the model's tokenizer has names for."""
    special = ["<pad>", "<s>", "</s>", *image_tokens, "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    byte_level = Tokenizer(models.BPE(vocabulary, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=byte_level,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=(template or TEMPLATE).replace("IMAGE", image_tokens[0]),
        extra_special_tokens=named,
    )
    made.save_pretrained(folder)
    return made


def save_llava(folder: Path, *, template: str | None = None) -> Path:
    """LLaVA: 16 tokens per image, whatever its size."""
    words = tokenizer(folder, ["<image>"], template=template)
    sizes = {"shortest_edge": _SIDE}, {"height": _SIDE, "width": _SIDE}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(size=sizes[0], crop_size=sizes[1]),
        words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_VISION, projection_dim=32),
        text_config=transformers.LlamaConfig(vocab_size=len(words), **_TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    return _save(folder, config, processor)


def _save(
    folder: Path, config: transformers.PretrainedConfig, processor: transformers.ProcessorMixin | None = None
) -> Path:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() and parameter.dim() > 1:
                parameter.normal_(std=0.02)  # Gemma 3's projector begins with zeros
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def picture(seed: int, *, width: int = 40, height: int = 30) -> Image:
    """Noise: every picture is another one."""
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save_idefics3(folder: Path) -> Path:
    """Idefics3: as many tiles as an image needs, of 4 tokens each, and tokens that say which tile it is."""
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *_TILES]
    words = tokenizer(folder, special)
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessorPil(
            size={"longest_edge": 4 * _SIDE}, max_image_size={"longest_edge": _SIDE}
        ),
        words,
        image_seq_len=4,
        chat_template=words.chat_template,
    )
    config = transformers.Idefics3Config(
        vision_config={**_VISION, "max_image_size": {"longest_edge": _SIDE}},
        text_config={"model_type": "llama", "vocab_size": len(words), **_TEXT},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return _save(folder, config, processor)


def save_llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: an image is cut into tiles by the shape that suits it best."""
    words = tokenizer(folder, ["<image>"])
    pinpoints = [[_SIDE, 2 * _SIDE], [2 * _SIDE, _SIDE], [2 * _SIDE, 2 * _SIDE]]
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}, image_grid_pinpoints=pinpoints
        ),
        words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**_VISION, projection_dim=32),
        text_config=transformers.LlamaConfig(vocab_size=len(words), **_TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
    )
    return _save(folder, config, processor)


def save_gemma3(folder: Path) -> Path:
    """Gemma 3: the 16 tokens of an image see each other, in layers with a window that is shorter, too."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(folder, list(named.values()), **named)
    words.add_tokens(["\n" * length for length in (2, 3, 4)])
    words.save_pretrained(folder)
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size={"height": _SIDE, "width": _SIDE}),
        words,
        image_seq_length=16,
        chat_template=words.chat_template,
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**_VISION),
        text_config=transformers.Gemma3TextConfig(
            vocab_size=len(words),
            head_dim=16,
            query_pre_attn_scalar=4,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            **_TEXT,
        ),
        mm_tokens_per_image=16,
        image_token_index=words.image_token_id,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
    )
    return _save(folder, config, processor)


def save_gemma4(folder: Path) -> Path:
    """Gemma 4, of the sizes without embeddings per layer: image tokens see each other in layers with a window only."""
    named = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>"}
    named |= {"boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"}
    words = tokenizer(folder, list(dict.fromkeys(["<|image|>", "<|video|>", *named.values()])), **named)
    config = transformers.Gemma4Config(
        vision_config={
            **{name: value for name, value in _VISION.items() if name != "image_size"},
            "num_key_value_heads": 2,
            "head_dim": 16,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        text_config={
            **_TEXT,
            "vocab_size": len(words),
            "vocab_size_per_layer_input": len(words),
            "hidden_size_per_layer_input": 0,
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 30,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "use_bidirectional_attention": "vision",
        },
        audio_config=None,
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in named.items() if name != "eoa_token"},
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )
    images = transformers.Gemma4ImageProcessorPil(patch_size=7, pooling_kernel_size=2, max_soft_tokens=70)
    return _save_parts(folder, config, "Gemma4Processor", images)


def save_smolvlm(folder: Path) -> Path:
    """SmolVLM: Idefics3's tiles, and a processor that takes videos too."""
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *_TILES]
    words = tokenizer(folder, special)
    # Older versions of transformers want tiles of a multiple of as many tokens as a patch has pixels on a side.
    side = 16
    sizes = {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}}
    config = transformers.SmolVLMConfig(
        vision_config={**_VISION, "image_size": side, "patch_size": 4, "max_image_size": {"longest_edge": side}},
        text_config={"model_type": "llama", "vocab_size": len(words), **_TEXT},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = transformers.SmolVLMImageProcessorPil(**sizes)
    return _save_parts(folder, config, "SmolVLMProcessor", images, image_seq_len=4)


def save_internvl(folder: Path) -> Path:
    """InternVL: tiles between two tokens, of 4 tokens each."""
    names = ("context_image_token", "start_image_token", "end_image_token", "video_token")
    named = dict(zip(names, ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"], strict=True))
    words = tokenizer(folder, list(named.values()), **named)
    config = transformers.InternVLConfig(
        vision_config={**_VISION, "image_size": [_SIDE, _SIDE], "patch_size": [7, 7]},
        text_config={"model_type": "qwen2", "vocab_size": len(words), **_TEXT},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = transformers.GotOcr2ImageProcessorPil(
        size={"height": _SIDE, "width": _SIDE}, crop_to_patches=True, max_patches=4
    )
    return _save_parts(folder, config, "InternVLProcessor", images, image_seq_length=4)


def save_mistral3(folder: Path) -> Path:
    """Mistral 3 with Pixtral: a token behind each row of an image."""
    words = tokenizer(folder, ["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    config = transformers.Mistral3Config(
        vision_config={**_VISION, "model_type": "pixtral", "image_size": 2 * _SIDE, "head_dim": 16},
        text_config={"model_type": "mistral", "vocab_size": len(words), "head_dim": 12, **_TEXT},
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": 2 * _SIDE}, patch_size=7)
    return _save_parts(folder, config, "PixtralProcessor", images, patch_size=7, spatial_merge_size=2)


def save_llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: one image is cut into tiles, several are not."""
    words = tokenizer(folder, ["<image>", "<video>"])
    pinpoints = [[_SIDE, 2 * _SIDE], [2 * _SIDE, _SIDE], [2 * _SIDE, 2 * _SIDE]]
    config = transformers.LlavaOnevisionConfig(
        vision_config={**_VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={"model_type": "qwen2", "vocab_size": len(words), **_TEXT},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    images = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": _SIDE, "width": _SIDE}, image_grid_pinpoints=pinpoints
    )
    options = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    return _save_parts(folder, config, "LlavaOnevisionProcessor", images, **options)


_QWEN_TOKENS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
_QWEN_TEMPLATE = TEMPLATE.replace("IMAGE", "<|vision_start|>IMAGE<|vision_end|>")
_QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}


def save_qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: the positions of an image's tokens have two dimensions."""
    words = tokenizer(folder, _QWEN_TOKENS, template=_QWEN_TEMPLATE)
    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "patch_size": 7},
        text_config={**_TEXT, "vocab_size": len(words), "rope_parameters": _QWEN_ROPE},
        **_qwen_token_ids(words),
    )
    return _save_parts(folder, config, "Qwen2VLProcessor", _qwen_images())


def save_qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: the same, with a vision model of windows."""
    words = tokenizer(folder, _QWEN_TOKENS, template=_QWEN_TEMPLATE)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48, "num_heads": 2}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={**vision, "patch_size": 7, "window_size": 28, "fullatt_block_indexes": [1]},
        text_config={**_TEXT, "vocab_size": len(words), "rope_parameters": _QWEN_ROPE},
        **_qwen_token_ids(words),
    )
    return _save_parts(folder, config, "Qwen2_5_VLProcessor", _qwen_images())


def save_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: what the vision model's layers see is added in the language model's first layers."""
    words = tokenizer(folder, _QWEN_TOKENS, template=_QWEN_TEMPLATE)
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48, "num_heads": 2}
    config = transformers.Qwen3VLConfig(
        vision_config={**vision, "patch_size": 7, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        text_config={
            **_TEXT,
            "vocab_size": len(words),
            "head_dim": 12,
            "rope_parameters": {**_QWEN_ROPE, "mrope_interleaved": True},
        },
        **_qwen_token_ids(words),
    )
    return _save_parts(folder, config, "Qwen3VLProcessor", _qwen_images())


def save_qwen3_vl_moe(folder: Path) -> Path:
    """Qwen3-VL with experts."""
    words = tokenizer(folder, _QWEN_TOKENS, template=_QWEN_TEMPLATE)
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48, "num_heads": 2}
    config = transformers.Qwen3VLMoeConfig(
        vision_config={**vision, "patch_size": 7, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        text_config={
            **_TEXT,
            "vocab_size": len(words),
            "head_dim": 12,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "rope_parameters": {**_QWEN_ROPE, "mrope_interleaved": True},
        },
        **_qwen_token_ids(words),
    )
    return _save_parts(folder, config, "Qwen3VLProcessor", _qwen_images())


def save_glm4v(folder: Path) -> Path:
    """GLM-4.1V: M-RoPE as Qwen2-VL's."""
    special = [f"<|{name}|>" for name in ("image", "video", "begin_of_image", "end_of_image")]
    special += ["<|begin_of_video|>", "<|end_of_video|>"]
    template = TEMPLATE.replace("IMAGE", "<|begin_of_image|>IMAGE<|end_of_image|>")
    words = tokenizer(folder, special, template=template)
    names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    ids = words.convert_tokens_to_ids(special)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48, "num_heads": 2}
    config = transformers.Glm4vConfig(
        vision_config={**vision, "image_size": 2 * _SIDE, "patch_size": 7},
        text_config={
            **_TEXT,
            "vocab_size": len(words),
            "rope_parameters": {**_QWEN_ROPE, "partial_rotary_factor": 1.0},
        },
        **{f"{name}_token_id": id for name, id in zip(names, ids, strict=True)},
    )
    sizes = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 56 * 56}
    images = transformers.Glm4vImageProcessorPil(patch_size=7, merge_size=2, size=sizes)
    return _save_parts(folder, config, "Glm4vProcessor", images)


def _qwen_images() -> Any:
    return transformers.Qwen2VLImageProcessorPil(patch_size=7, merge_size=2, min_pixels=14 * 14, max_pixels=56 * 56)


def _qwen_token_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return dict(zip(names, words.convert_tokens_to_ids(_QWEN_TOKENS), strict=True))


def _save_parts(
    folder: Path, config: transformers.PretrainedConfig, processor: str, images: Any, **options: Any
) -> Path:
    """A folder whose processor takes videos too, as transformers saves it; that processor itself needs torchvision.

    Args:
        folder: where the tokenizer is.
        config: the model's.
        processor: the processor's class.
        images: its image processor.
        **options: of the processor.
    """
    images.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor, **options}))
    return _save(folder, config)
