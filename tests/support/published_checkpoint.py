"""A checkpoint folder in the published layout, with random weights and sizes that fit into a test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rdvla.backbone import LanguageConfig, PrismaticConfig, VisionTransformerConfig
from rdvla.backbone.prismatic.config import dinov2_large, siglip_so400m
from rdvla.backbone.prismatic.prompt import PROMPT

DINOV2 = VisionTransformerConfig(
    width=16, depth=3, heads=2, mlp_width=32, image_size=28, class_token=True, registers=2, layer_scale=True,
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
SIGLIP = VisionTransformerConfig(
    width=12, depth=4, heads=3, mlp_width=20, image_size=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
TIMM_IDS = ("vit_tiny_patch14_reg2_dinov2", "vit_tiny_patch14_siglip_28")
ENCODERS = dict(zip(TIMM_IDS, (DINOV2, SIGLIP), strict=True))
WIDTH, LAYERS, HEADS, KV_HEADS, MLP_WIDTH, LATENTS, VOCABULARY = 32, 4, 4, 2, 40, 6, 420
LANGUAGE = LanguageConfig(
    vocab_size=VOCABULARY, width=WIDTH, mlp_width=MLP_WIDTH, layers=LAYERS, heads=HEADS,
    key_value_heads=KV_HEADS,
)  # fmt: skip
BACKBONE = PrismaticConfig(
    dinov2=DINOV2, siglip=SIGLIP, language=LANGUAGE, levels=(0, 2, LAYERS), latents=LATENTS, dtype="float32",
    crop_area=1.0,
)  # fmt: skip
# What training in bfloat16 left in published processor files: ImageNet's numbers, rounded.
DINOV2_SCALE = {"mean": [0.484375, 0.455078125, 0.40625], "std": [0.228515625, 0.2236328125, 0.224609375]}
STATISTICS_KEY = "libero_spatial_no_noops"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint."""

    dinov2: VisionTransformerConfig
    siglip: VisionTransformerConfig
    language: LanguageConfig
    latents: int
    timm_ids: tuple[str, str]


TINY = Sizes(DINOV2, SIGLIP, LANGUAGE, LATENTS, TIMM_IDS)
PAPER = Sizes(
    dinov2_large(), siglip_so400m(), LanguageConfig(), 64,
    ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"),
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A folder and the weights in it."""

    folder: Path
    weights: dict[str, Tensor]


def make_published(
    folder: Path,
    *,
    levels: tuple[int, int] = (2, 3),
    dtype: torch.dtype = torch.float32,
    sizes: Sizes = TINY,
) -> Published:
    """Write a checkpoint with a prelude block, two core blocks and a coda block."""
    folder.mkdir(parents=True)
    generator, width = torch.Generator().manual_seed(0), sizes.language.width
    weights = {name: _draw(shape, generator).to(dtype) for name, shape in merged_shapes(sizes)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", _config(sizes))
    _write(folder / "preprocessor_config.json", _preprocessor(sizes.dinov2.image_size))
    _write(folder / "dataset_statistics.json", {STATISTICS_KEY: _statistics()})
    _write(folder / "action_head_config--7_checkpoint.json", _head_config(levels, width=width))
    head = {f"module.model.{name}": _draw(shape, generator) for name, shape in _head_shapes(width)}
    torch.save(head, folder / "action_head--7_checkpoint.pt")
    projector = dict([*_linear("fc1", 8, width), *_linear("fc2", width, width)])
    torch.save(
        {f"module.{name}": _draw(shape, generator) for name, shape in projector.items()},
        folder / "proprio_projector--7_checkpoint.pt",
    )
    (folder / "modeling_prismatic.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    save_qwen_tokenizer(folder)
    return Published(folder, weights)


def merged_shapes(sizes: Sizes = TINY) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the merged weights, with those that no policy uses."""
    language = sizes.language
    yield from _encoder_shapes("vision_backbone.featurizer", sizes.dinov2)
    yield from _encoder_shapes("vision_backbone.fused_featurizer", sizes.siglip)
    features = sizes.dinov2.width + sizes.siglip.width
    yield from _linear("projector.fc1", features, 4 * features)
    yield from _linear("projector.fc2", 4 * features, language.width)
    yield from _linear("projector.fc3", language.width, language.width)
    yield "language_model.model.embed_tokens.weight", (language.vocab_size, language.width)
    for layer in range(language.layers):
        yield from _layer_shapes(f"language_model.model.layers.{layer}", language)
    yield "language_model.model.norm.weight", (language.width,)
    yield "language_model.lm_head.weight", (language.vocab_size, language.width)
    yield "action_queries.weight", (sizes.latents, language.width)


def _encoder_shapes(prefix: str, config: VisionTransformerConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = config.width
    if config.class_token:
        yield f"{prefix}.cls_token", (1, 1, width)
    if config.registers:
        yield f"{prefix}.reg_token", (1, config.registers, width)
    yield f"{prefix}.pos_embed", (1, config.patches, width)
    yield f"{prefix}.patch_embed.proj.weight", (width, 3, 14, 14)
    yield f"{prefix}.patch_embed.proj.bias", (width,)
    for block in range(config.depth):
        name = f"{prefix}.blocks.{block}"
        for norm in ("norm1", "norm2"):
            yield from _norm(f"{name}.{norm}", width)
        yield from _linear(f"{name}.attn.qkv", width, 3 * width)
        yield from _linear(f"{name}.attn.proj", width, width)
        yield from _linear(f"{name}.mlp.fc1", width, config.mlp_width)
        yield from _linear(f"{name}.mlp.fc2", config.mlp_width, width)
        if config.layer_scale:
            yield f"{name}.ls1.scale_factor", (width,)
            yield f"{name}.ls2.scale_factor", (width,)
    yield from _norm(f"{prefix}.norm", width)
    if not config.class_token:  # SigLIP pools by attention
        yield f"{prefix}.attn_pool.latent", (1, 1, width)
        for part, out in (("q", width), ("kv", 2 * width), ("proj", width)):
            yield from _linear(f"{prefix}.attn_pool.{part}", width, out)
        yield from _norm(f"{prefix}.attn_pool.norm", width)
        yield from _linear(f"{prefix}.attn_pool.mlp.fc1", width, config.mlp_width)
        yield from _linear(f"{prefix}.attn_pool.mlp.fc2", config.mlp_width, width)


def _layer_shapes(name: str, language: LanguageConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = language.width, language.mlp_width
    keys = width // language.heads * language.key_value_heads
    for part, out in (("q_proj", width), ("k_proj", keys), ("v_proj", keys)):
        yield from _linear(f"{name}.self_attn.{part}", width, out)
    yield f"{name}.self_attn.o_proj.weight", (width, width)
    for part in ("gate_proj", "up_proj"):
        yield f"{name}.mlp.{part}.weight", (inner, width)
    yield f"{name}.mlp.down_proj.weight", (width, inner)
    yield f"{name}.input_layernorm.weight", (width,)
    yield f"{name}.post_attention_layernorm.weight", (width,)


def _head_shapes(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "action_queries", (8, width)
    yield from (("gamma_init", (1,)), ("gamma_adapt", (1,)), ("adapter.weight", (width, 2 * width)))
    for norm in ("adapter_norm", "recurrent_norm", "output_norm"):
        yield f"{norm}.weight", (width,)
    yield from _linear("output_proj", width, 7)
    square = ("q_self", "k_self", "v_self", "o_self", "q_cross", "o_cross")
    context = ("k_latents", "v_latents", "k_vision", "v_vision")
    for block in ("prelude.0", "recurrent.0", "recurrent.1", "coda.0"):
        for part in (*square, *context):
            yield f"{block}.{part}.weight", (width, width)
        for part in ("norm1", "norm2", "norm3"):
            yield f"{block}.{part}.weight", (width,)
        yield f"{block}.gate", (1,)
        for part in ("ffn_gate", "ffn_up"):
            yield f"{block}.{part}.weight", (4 * width, width)
        yield f"{block}.ffn_down.weight", (width, 4 * width)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    scale = shape[-1] ** -0.5 if len(shape) > 1 else 1.0
    values = torch.randn(shape, generator=generator) * scale
    return values if len(shape) > 1 else 1 + 0.2 * values  # norms and scales lie around one


def _config(sizes: Sizes) -> dict[str, Any]:
    return {
        "model_type": "openvla", "arch_specifier": "no-align+fused-gelu-mlp",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [sizes.dinov2.image_size] * 2, "timm_model_ids": list(sizes.timm_ids),
        "timm_override_act_layers": [None, None],
        "use_fused_vision_backbone": True, "text_config": _text_config(sizes.language),
        "torch_dtype": "bfloat16",
        "auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},
    }  # fmt: skip


def _text_config(language: LanguageConfig) -> dict[str, Any]:
    return {
        "model_type": "qwen2", "hidden_size": language.width, "intermediate_size": language.mlp_width,
        "num_hidden_layers": language.layers, "num_attention_heads": language.heads,
        "num_key_value_heads": language.key_value_heads, "rope_theta": language.rotary_base,
        "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": language.vocab_size,
        "max_position_embeddings": 32768,
    }  # fmt: skip


def _preprocessor(size: int) -> dict[str, Any]:
    siglip = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    return {
        "image_resize_strategy": "resize-naive", "input_sizes": [[3, size, size]] * 2,
        "tvf_normalize_params": [DINOV2_SCALE | {"inplace": False}, siglip | {"inplace": False}],
        "use_fused_vision_backbone": True,
    }  # fmt: skip


def _statistics() -> dict[str, Any]:
    return {
        "action": {
            "q01": [-0.7, -0.8, -0.9, -0.1, -0.2, -0.1, 0.0], "q99": [0.9, 0.8, 0.9, 0.2, 0.2, 0.1, 1.0],
            "min": [-1.0] * 7, "max": [1.0] * 7, "mean": [0.0] * 7, "std": [0.5] * 7,
            "mask": [True] * 6 + [False],
        },
        "proprio": {
            "q01": [-0.5, -0.3, 0.0, 1.0, -1.0, -1.0, 0.0, -0.04],
            "q99": [0.1, 0.3, 1.2, 3.5, 1.0, 0.5, 0.04, 0.0],
            "min": [-2.0] * 8, "max": [4.0] * 8, "mean": [0.0] * 8, "std": [0.5] * 8,
        },
        "num_transitions": 52970, "num_trajectories": 432,
    }  # fmt: skip


def _head_config(levels: tuple[int, int], *, width: int) -> dict[str, Any]:
    middle, late = levels
    return {
        "hidden_dim": width, "num_heads": 4, "prelude_vlm_layers": [middle],
        "recurrent_vlm_layers": [late, late],
        "coda_vlm_layers": [late], "action_chunk_len": 8, "action_dim": 7, "mean_recurrence": 32,
        "backprop_depth": 8, "random_iterations": True, "init_std": 0.632, "rms_norm_eps": 1e-6,
        "rope_base": 10000.0, "_type": "ActionHeadRecurrent",
    }  # fmt: skip


def save_qwen_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer with Qwen's chat tokens, in the files of a published folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([PROMPT] * 5, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special[0],
        pad_token=special[0],
        additional_special_tokens=special[1:],
    )
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    published = {
        "tokenizer_class": "Qwen2Tokenizer", "processor_class": "PrismaticProcessor",
        "auto_map": {"AutoProcessor": "processing_prismatic.PrismaticProcessor"},
    }  # fmt: skip
    _write(path, json.loads(path.read_text()) | published)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2))
