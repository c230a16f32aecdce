"""The paper's backbone computed plainly from published weights: no modules, no padding, no batches.

Written from timm's and Qwen2's published descriptions, attention spelled out, in the weights' own precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, silu

from rdvla.backbone import PrismaticBackbone, VisionTransformerConfig
from rdvla.backbone.prismatic.prompt import PROMPT

Weights = Mapping[str, Tensor]


def prompt_of(backbone: PrismaticBackbone, sentence: str) -> list[int]:
    """Token ids of the published prompt around an instruction."""
    assert backbone.prompt_tokenizer is not None
    ids: list[int] = backbone.prompt_tokenizer.tokenizer(PROMPT.replace("{instruction}", sentence.lower()))[
        "input_ids"
    ]
    return ids


def encode_cameras(
    weights: Weights, images: Tensor, *, encoders: Sequence[VisionTransformerConfig]
) -> Tensor:
    """(cameras, H, W, 3) uint8 -> (M, D) projected patches, in the precision of the weights.

    Args:
        weights: under their published names.
        images: of one sample, as the image encoders take them.
        encoders: sizes and scale of DINOv2 and SigLIP.
    """
    dtype = weights["projector.fc1.weight"].dtype
    patches = []
    for image in images.to(dtype) / 255:
        encoded = []
        for name, config in zip(("featurizer", "fused_featurizer"), encoders, strict=True):
            mean, std = (torch.tensor(values, dtype=dtype) for values in (config.mean, config.std))
            pixels = ((image - mean) / std).permute(2, 0, 1)
            prefix = f"vision_backbone.{name}"
            encoded.append(encode_image(weights, prefix, pixels, heads=config.heads, depth=config.depth))
        patches.append(project(weights, torch.cat(encoded, dim=-1)))
    return torch.cat(patches)


def encode_image(weights: Weights, prefix: str, pixels: Tensor, *, heads: int, depth: int) -> Tensor:
    """(3, H, W) normalised -> (patches, width) after block `depth - 1` of `depth`."""
    w = _below(weights, f"{prefix}.")
    kernel = w["patch_embed.proj.weight"]
    x = conv2d(pixels[None], kernel, w["patch_embed.proj.bias"], stride=kernel.shape[-1])[0]
    x = x.reshape(len(x), -1).T + w["pos_embed"][0]
    tokens = [w[name][0] for name in ("cls_token", "reg_token") if name in w]
    extra = sum(len(token) for token in tokens)
    x = torch.cat([*tokens, x])
    for block in range(depth - 1):
        x = _vision_block(_below(w, f"blocks.{block}."), x, heads=heads)
    return x[extra:]


def _vision_block(w: Weights, x: Tensor, *, heads: int) -> Tensor:
    width = x.shape[-1]
    normed = layer_norm(x, (width,), w["norm1.weight"], w["norm1.bias"], eps=1e-6)
    query, key, value = (normed @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]).split(width, dim=-1)
    size = width // heads
    seen = []
    for head in range(heads):
        mine = slice(head * size, (head + 1) * size)
        scores = query[:, mine] @ key[:, mine].T / math.sqrt(size)
        seen.append(scores.softmax(dim=-1) @ value[:, mine])
    branch = torch.cat(seen, dim=-1) @ w["attn.proj.weight"].T + w["attn.proj.bias"]
    x = x + branch * w.get("ls1.scale_factor", torch.ones((), dtype=x.dtype))
    normed = layer_norm(x, (width,), w["norm2.weight"], w["norm2.bias"], eps=1e-6)
    branch = (
        gelu(normed @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]) @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    )
    return x + branch * w.get("ls2.scale_factor", torch.ones((), dtype=x.dtype))


def _below(weights: Weights, start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): weights[name] for name in weights if name.startswith(start)}


def project(weights: Weights, features: Tensor) -> Tensor:
    """(patches, both widths) -> (patches, D)."""
    for name in ("fc1", "fc2", "fc3"):
        features = features @ weights[f"projector.{name}.weight"].T + weights[f"projector.{name}.bias"]
        features = features if name == "fc3" else gelu(features)
    return features


def hidden_states(
    weights: Weights, x: Tensor, *, layers: int, heads: int, key_value_heads: int, bidirectional: bool
) -> list[Tensor]:
    """(S, D) embeddings -> layers + 1 hidden states; the last one is normalised, as transformers does it."""
    prefix = "language_model.model"
    states = [x]
    for layer in range(layers):
        w = _below(weights, f"{prefix}.layers.{layer}.")
        x = _language_layer(w, x, heads=heads, key_value_heads=key_value_heads, bidirectional=bidirectional)
        states.append(x)
    states[-1] = _rms_norm(x, weights[f"{prefix}.norm.weight"])
    return states


def _language_layer(
    w: Weights, x: Tensor, *, heads: int, key_value_heads: int, bidirectional: bool
) -> Tensor:
    length, width = x.shape
    size = width // heads
    normed = _rms_norm(x, w["input_layernorm.weight"])
    query, key, value = (
        normed @ w[f"self_attn.{name}_proj.weight"].T + w[f"self_attn.{name}_proj.bias"] for name in "qkv"
    )
    hidden = torch.zeros(length, length, dtype=torch.bool)
    if not bidirectional:
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    seen = []
    for head in range(heads):
        mine = slice(head * size, (head + 1) * size)
        shared = head // (heads // key_value_heads)
        theirs = slice(shared * size, (shared + 1) * size)
        scores = _rotate(query[:, mine]) @ _rotate(key[:, theirs]).T / math.sqrt(size)
        seen.append(scores.masked_fill(hidden, -math.inf).softmax(dim=-1) @ value[:, theirs])
    x = x + torch.cat(seen, dim=-1) @ w["self_attn.o_proj.weight"].T
    normed = _rms_norm(x, w["post_attention_layernorm.weight"])
    inner = silu(normed @ w["mlp.gate_proj.weight"].T) * (normed @ w["mlp.up_proj.weight"].T)
    return x + inner @ w["mlp.down_proj.weight"].T


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight


def _rotate(x: Tensor, base: float = 1_000_000.0) -> Tensor:
    """Turn entry i and entry i + half of position t by the angle t / base ** (i / half)."""
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(len(x), dtype=x.dtype)[:, None] * speeds
    first, second = x[:, :half], x[:, half:]
    turned = (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
    return torch.cat(turned, dim=-1)


def context(
    weights: Weights,
    patches: Tensor,
    prompt: Sequence[int],
    *,
    layers: int,
    heads: int,
    key_value_heads: int,
    bidirectional: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Vision (M, D) and latents (L, D) at every hidden state, for a sample with M projected patches."""
    words = weights["language_model.model.embed_tokens.weight"][[*prompt, 2]]
    learned = weights["action_queries.weight"]
    sequence = torch.cat([words[:1], patches, words[1:-1], learned, words[-1:]])
    states = hidden_states(
        weights, sequence, layers=layers, heads=heads, key_value_heads=key_value_heads,
        bidirectional=bidirectional,
    )  # fmt: skip
    count, start = len(patches), len(patches) + len(prompt) - 1
    return [(state[:count], state[start : start + len(learned)]) for state in states]
