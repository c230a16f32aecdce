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

from rdvla.backbone import VisionTransformerConfig
from rdvla.backbone.prompt import PROMPT

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
TEXT_CONFIG = {
    "model_type": "qwen2", "hidden_size": WIDTH, "intermediate_size": MLP_WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": VOCABULARY,
    "max_position_embeddings": 32768,
}  # fmt: skip
# What training in bfloat16 left in published processor files: ImageNet's numbers, rounded.
DINOV2_SCALE = {"mean": [0.484375, 0.455078125, 0.40625], "std": [0.228515625, 0.2236328125, 0.224609375]}
STATISTICS_KEY = "libero_spatial_no_noops"


@dataclass(frozen=True)
class Published:
    """The folder, and what went into it."""

    folder: Path
    weights: dict[str, Tensor]


def make_published(
    folder: Path, *, levels: tuple[int, int] = (2, 3), dtype: torch.dtype = torch.float32, seed: int = 0
) -> Published:
    """Write a checkpoint of one prelude, two core and one coda block."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _draw(shape, generator).to(dtype) for name, shape in merged_shapes()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", _config())
    _write(folder / "preprocessor_config.json", _preprocessor())
    _write(folder / "dataset_statistics.json", {STATISTICS_KEY: _statistics()})
    _write(folder / "action_head_config--7_checkpoint.json", _head_config(levels))
    head = {f"module.model.{name}": _draw(shape, generator) for name, shape in _head_shapes()}
    torch.save(head, folder / "action_head--7_checkpoint.pt")
    projector = {
        "fc1.weight": (WIDTH, 8),
        "fc1.bias": (WIDTH,),
        "fc2.weight": (WIDTH, WIDTH),
        "fc2.bias": (WIDTH,),
    }
    torch.save(
        {f"module.{name}": _draw(shape, generator) for name, shape in projector.items()},
        folder / "proprio_projector--7_checkpoint.pt",
    )
    (folder / "modeling_prismatic.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    save_qwen_tokenizer(folder)
    return Published(folder, weights)


def merged_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the merged weights, those that no policy reads included."""
    yield from _encoder_shapes("vision_backbone.featurizer", DINOV2)
    yield from _encoder_shapes("vision_backbone.fused_featurizer", SIGLIP)
    features = DINOV2.width + SIGLIP.width
    yield from _linear("projector.fc1", features, 4 * features)
    yield from _linear("projector.fc2", 4 * features, WIDTH)
    yield from _linear("projector.fc3", WIDTH, WIDTH)
    yield "language_model.model.embed_tokens.weight", (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        yield from _layer_shapes(f"language_model.model.layers.{layer}")
    yield "language_model.model.norm.weight", (WIDTH,)
    yield "language_model.lm_head.weight", (VOCABULARY, WIDTH)
    yield "action_queries.weight", (LATENTS, WIDTH)


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


def _layer_shapes(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    keys = WIDTH // HEADS * KV_HEADS
    for part, out in (("q_proj", WIDTH), ("k_proj", keys), ("v_proj", keys)):
        yield from _linear(f"{name}.self_attn.{part}", WIDTH, out)
    yield f"{name}.self_attn.o_proj.weight", (WIDTH, WIDTH)
    for part in ("gate_proj", "up_proj"):
        yield f"{name}.mlp.{part}.weight", (MLP_WIDTH, WIDTH)
    yield f"{name}.mlp.down_proj.weight", (WIDTH, MLP_WIDTH)
    yield f"{name}.input_layernorm.weight", (WIDTH,)
    yield f"{name}.post_attention_layernorm.weight", (WIDTH,)


def _head_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "action_queries", (8, WIDTH)
    yield from (("gamma_init", (1,)), ("gamma_adapt", (1,)), ("adapter.weight", (WIDTH, 2 * WIDTH)))
    for norm in ("adapter_norm", "recurrent_norm", "output_norm"):
        yield f"{norm}.weight", (WIDTH,)
    yield from _linear("output_proj", WIDTH, 7)
    square = ("q_self", "k_self", "v_self", "o_self", "q_cross", "o_cross")
    context = ("k_latents", "v_latents", "k_vision", "v_vision")
    for block in ("prelude.0", "recurrent.0", "recurrent.1", "coda.0"):
        for part in (*square, *context):
            yield f"{block}.{part}.weight", (WIDTH, WIDTH)
        for part in ("norm1", "norm2", "norm3"):
            yield f"{block}.{part}.weight", (WIDTH,)
        yield f"{block}.gate", (1,)
        for part in ("ffn_gate", "ffn_up"):
            yield f"{block}.{part}.weight", (4 * WIDTH, WIDTH)
        yield f"{block}.ffn_down.weight", (WIDTH, 4 * WIDTH)


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


def _config() -> dict[str, Any]:
    return {
        "model_type": "openvla", "arch_specifier": "no-align+fused-gelu-mlp",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [28, 28], "timm_model_ids": list(TIMM_IDS), "timm_override_act_layers": [None, None],
        "use_fused_vision_backbone": True, "text_config": TEXT_CONFIG, "torch_dtype": "bfloat16",
        "auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},
    }  # fmt: skip


def _preprocessor() -> dict[str, Any]:
    siglip = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    return {
        "image_resize_strategy": "resize-naive", "input_sizes": [[3, 28, 28], [3, 28, 28]],
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


def _head_config(levels: tuple[int, int]) -> dict[str, Any]:
    middle, late = levels
    return {
        "hidden_dim": WIDTH, "num_heads": 4, "prelude_vlm_layers": [middle],
        "recurrent_vlm_layers": [late, late],
        "coda_vlm_layers": [late], "action_chunk_len": 8, "action_dim": 7, "mean_recurrence": 32,
        "backprop_depth": 8, "random_iterations": True, "init_std": 0.632, "rms_norm_eps": 1e-6,
        "rope_base": 10000.0, "_type": "ActionHeadRecurrent",
    }  # fmt: skip


def save_qwen_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with Qwen's chat tokens, in the files that a published folder has."""
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
