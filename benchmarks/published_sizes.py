"""Sizes of published vision-language models: model type and configuration, as published."""

from __future__ import annotations

from typing import Any

SIGLIP_SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14,
}  # fmt: skip


def _llama(hidden: int, inner: int, layers: int, heads: int, key_value: int) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": key_value, "vocab_size": 49_280, "head_dim": 64,
    }  # fmt: skip


def _qwen(hidden: int, inner: int, layers: int, heads: int, key_value: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": key_value, "vocab_size": 151_936, **more,
    }  # fmt: skip


def _qwen25_vision(out: int) -> dict[str, Any]:
    return {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": out,
        "patch_size": 14, "spatial_merge_size": 2,
    }  # fmt: skip


def _qwen3_vision(out: int) -> dict[str, Any]:
    return {
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": out,
        "patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    }  # fmt: skip


_SMOL_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 512, "patch_size": 16,
}  # fmt: skip
_TIED = {"tie_word_embeddings": True}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolVLM2-500M": (
        "smolvlm",
        {"text_config": _llama(960, 2560, 32, 15, 5), "vision_config": _SMOL_VISION, "scale_factor": 4},
    ),
    "SmolVLM2-2.2B": (
        "smolvlm",
        {
            "text_config": _llama(2048, 8192, 24, 32, 32),
            "vision_config": SIGLIP_SO400M | {"image_size": 384},
            "scale_factor": 3,
        },
    ),
    "Qwen3-VL-2B": (
        "qwen3_vl",
        {
            "text_config": _qwen(2048, 6144, 28, 16, 8, head_dim=128),
            "vision_config": _qwen3_vision(2048),
            **_TIED,
        },
    ),
    "Qwen3-VL-4B": (
        "qwen3_vl",
        {
            "text_config": _qwen(2560, 9728, 36, 32, 8, head_dim=128),
            "vision_config": _qwen3_vision(2560),
            **_TIED,
        },
    ),
    "Qwen2.5-VL-3B": (
        "qwen2_5_vl",
        {"text_config": _qwen(2048, 11_008, 36, 16, 2), "vision_config": _qwen25_vision(2048), **_TIED},
    ),
    "Qwen2.5-VL-7B": (
        "qwen2_5_vl",
        {"text_config": _qwen(3584, 18_944, 28, 28, 4), "vision_config": _qwen25_vision(3584)},
    ),
    "PaliGemma-3B-224": (
        "paligemma",
        {
            "text_config": {
                "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16_384, "head_dim": 256,
                "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1,
                "vocab_size": 257_216,
            },
            "vision_config": SIGLIP_SO400M
            | {"image_size": 224, "projection_dim": 2048, "vision_use_head": False},
            "projection_dim": 2048,
        },
    ),
}  # fmt: skip
