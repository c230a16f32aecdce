"""Vision-language models of every supported family, random and small enough for every test."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rdvla.backbone import HuggingFaceConfig, LoraSettings

WIDTH, LAYERS, IMAGE_SIZE = 16, 3, 32
SPECIAL = (
    "<pad>", "<bos>", "<eos>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
LETTERS = [*string.ascii_letters, *string.punctuation, " ", "\n"]  # every one that a prompt is made of
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *LETTERS, "<unk>"])}
IMAGE_MEAN, IMAGE_STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TEXT = {
    "vocab_size": len(VOCABULARY), "hidden_size": WIDTH, "intermediate_size": 24,
    "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
LLAMA = {"model_type": "llama", **TEXT}
VISION = {"image_size": IMAGE_SIZE, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8}


def _idefics3() -> Any:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    vision = {**VISION, "patch_size": 8, "intermediate_size": 16}
    config = Idefics3Config(
        vision_config=vision, text_config=LLAMA, image_token_id=VOCABULARY["<image>"], scale_factor=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    return Idefics3ForConditionalGeneration(config)


def _smolvlm() -> Any:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    # As in SmolVLM2-2.2B the patches do not fill the image: 4 of 7 pixels a side, and 4 pixels are left out.
    vision = {**VISION, "patch_size": 7, "intermediate_size": 16}
    config = SmolVLMConfig(
        vision_config=vision, text_config=LLAMA, image_token_id=VOCABULARY["<image>"], scale_factor=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    return SmolVLMForConditionalGeneration(config)


QWEN_TOKENS = {
    "image_token_id": VOCABULARY["<|image_pad|>"], "video_token_id": VOCABULARY["<|video_pad|>"],
    "vision_start_token_id": VOCABULARY["<|vision_start|>"],
    "vision_end_token_id": VOCABULARY["<|vision_end|>"],
}  # fmt: skip


QWEN_VISION = {"num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN_WIDTHS = {"hidden_size": 8, "intermediate_size": 16, "out_hidden_size": WIDTH}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}


def _qwen2_vl() -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {**QWEN_VISION, "depth": 2, "embed_dim": 8, "mlp_ratio": 2, "hidden_size": WIDTH}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(vision_config=vision, text_config={**TEXT, **ROPE}, **QWEN_TOKENS)
    )


def _qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {**QWEN_VISION, **QWEN_WIDTHS, "depth": 2, "window_size": 16, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(vision_config=vision, text_config={**TEXT, **ROPE}, **QWEN_TOKENS)
    )


def _qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {
        **QWEN_VISION, **QWEN_WIDTHS, "depth": 3, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    text = {**TEXT, **ROPE, "head_dim": 8}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(vision_config=vision, text_config=text, **QWEN_TOKENS)
    )


def _paligemma(text_type: str = "gemma", **text: Any) -> Any:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    vision = {
        **VISION, "patch_size": 16, "intermediate_size": 16, "model_type": "siglip_vision_model",
        "projection_dim": WIDTH, "vision_use_head": False,
    }  # fmt: skip
    config = PaliGemmaConfig(
        vision_config=vision, text_config={"model_type": text_type, **TEXT, "head_dim": 8, **text},
        image_token_id=VOCABULARY["<image>"], projection_dim=WIDTH, hidden_size=WIDTH,
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration(config)


def _paligemma2() -> Any:
    return _paligemma("gemma2", sliding_window=128, query_pre_attn_scalar=8)


MAKERS: dict[str, Callable[[], Any]] = {
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "paligemma": _paligemma,
    "paligemma2": _paligemma2,
}


def tiny_tokenizer(name: str) -> Any:
    """A family's tokenizer over single letters, which Idefics3's splits ``<global-img>`` into too."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    unknown = {"<global-img>"} if name == "idefics3" else set()
    vocabulary = {token: i for token, i in VOCABULARY.items() if token not in unknown}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in SPECIAL if token in vocabulary]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    )


def save_tiny_vlm(folder: Path, name: str, *, seed: int = 0) -> str:
    """Write a random model of a family and its tokenizer."""
    tiny_tokenizer(name).save_pretrained(folder)
    scale = {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD}
    processor = {"image_processor_type": "SiglipImageProcessor", **scale}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    torch.manual_seed(seed)
    model = MAKERS[name]()
    for parameter in model.parameters():  # so that every part makes a difference that a test can see
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


def vlm_config(folder: str, **changes: Any) -> HuggingFaceConfig:
    values = {
        "name_or_path": folder, "levels": (1, 2), "latents": 4, "dtype": "float32", "image_size": IMAGE_SIZE,
        "question": "do {instruction}?", "max_text_tokens": 120, "lora": LoraSettings(rank=2, alpha=4),
    }  # fmt: skip
    return HuggingFaceConfig(**(values | changes))
