"""The image encoders by transformers' own classes, loaded through files as `from_pretrained` does it."""

from __future__ import annotations

import tempfile

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from rdvla.backbone import VisionTransformerConfig
from rdvla.backbone.prismatic.vision_transformer import VisionTransformer


def dinov2_features(encoder: VisionTransformer, images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, patches, width) after the second-to-last block."""
    c = encoder.config
    config = Dinov2WithRegistersConfig(
        hidden_size=c.width, num_hidden_layers=c.depth, num_attention_heads=c.heads,
        mlp_ratio=c.mlp_width // c.width, image_size=c.image_size, patch_size=c.patch_size,
        num_register_tokens=c.registers, layer_norm_eps=1e-6, hidden_act="gelu",
    )  # fmt: skip
    ours = encoder.state_dict()
    class_place = torch.zeros(1, 1, c.width)  # timm adds positions to patches only
    weights = {
        "embeddings.cls_token": ours["cls_token"],
        "embeddings.register_tokens": ours["reg_token"],
        "embeddings.position_embeddings": torch.cat([class_place, ours["pos_embed"]], dim=1),
    }
    for part in ("weight", "bias"):
        weights[f"embeddings.patch_embeddings.projection.{part}"] = ours[f"patch_embed.proj.{part}"]
    for block in range(c.depth - 1):
        old, new = f"blocks.{block}.", f"encoder.layer.{block}."
        for theirs, name in (("layer_scale1", "ls1"), ("layer_scale2", "ls2")):
            weights[f"{new}{theirs}.lambda1"] = ours[f"{old}{name}.gamma"]
        names = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        weights |= _block(
            ours, old, new, names | {"attention.output.dense": "attn.proj"}, "attention.attention"
        )
    return _second_to_last(Dinov2WithRegistersModel, config, weights, encoder, images)


def siglip_features(encoder: VisionTransformer, images: Tensor) -> Tensor:
    """See `dinov2_features`."""
    c = encoder.config
    config = SiglipVisionConfig(
        hidden_size=c.width, intermediate_size=c.mlp_width, num_hidden_layers=c.depth,
        num_attention_heads=c.heads, image_size=c.image_size, patch_size=c.patch_size, hidden_act="gelu",
        layer_norm_eps=1e-6,
    )  # fmt: skip
    ours = encoder.state_dict()
    start = "vision_model."
    weights = {f"{start}embeddings.position_embedding.weight": ours["pos_embed"][0]}
    for part in ("weight", "bias"):
        weights[f"{start}embeddings.patch_embedding.{part}"] = ours[f"patch_embed.proj.{part}"]
    names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for block in range(c.depth - 1):
        old, new = f"blocks.{block}.", f"{start}encoder.layers.{block}."
        weights |= _block(ours, old, new, names | {"self_attn.out_proj": "attn.proj"}, "self_attn")
    return _second_to_last(SiglipVisionModel, config, weights, encoder, images)


def _block(
    ours: dict[str, Tensor], old: str, new: str, names: dict[str, str], attention: str
) -> dict[str, Tensor]:
    weights = {}
    for part in ("weight", "bias"):
        weights |= {f"{new}{theirs}.{part}": ours[f"{old}{name}.{part}"] for theirs, name in names.items()}
        pieces = ours[f"{old}attn.qkv.{part}"].chunk(3)
        kinds = (
            ("query", "key", "value") if attention.startswith("attention") else ("q_proj", "k_proj", "v_proj")
        )
        weights |= {
            f"{new}{attention}.{kind}.{part}": piece for kind, piece in zip(kinds, pieces, strict=True)
        }
    return weights


def _second_to_last(
    model: type[PreTrainedModel],
    config: object,
    weights: dict[str, Tensor],
    encoder: VisionTransformer,
    images: Tensor,
) -> Tensor:
    settings: VisionTransformerConfig = encoder.config
    pixels = (images / 255 - torch.tensor(settings.mean)) / torch.tensor(settings.std)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)  # type: ignore[attr-defined]
        contiguous = {name: value.detach().contiguous() for name, value in weights.items()}
        save_file(contiguous, f"{folder}/model.safetensors", metadata={"format": "pt"})
        loaded, info = model.from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"], info
    last = f".{settings.depth - 1}."
    assert all(
        last in key or "layernorm" in key or "head." in key or "mask_token" in key
        for key in info["missing_keys"]
    ), info
    states = loaded.eval()(pixel_values=pixels.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states
    out: Tensor = states[settings.depth - 1][:, -settings.patches :]
    return out
