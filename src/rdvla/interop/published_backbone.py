"""Reads the backbone's sizes from a published checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rdvla.backbone import LanguageConfig, PrismaticBackbone, PrismaticConfig, VisionTransformerConfig
from rdvla.backbone.config import Precision
from rdvla.backbone.prismatic.config import Attention, dinov2_large, siglip_so400m
from rdvla.errors import ConfigError, RDVLAError, nearest
from rdvla.files import read_object
from rdvla.interop.published_folder import are_numbers, is_number, is_whole
from rdvla.policy import RDVLAPolicy

Encoders = Mapping[str, VisionTransformerConfig]
PUBLISHED_ENCODERS: Encoders = {  # by timm's name
    "vit_large_patch14_reg4_dinov2.lvd142m": dinov2_large(),
    "vit_so400m_patch14_siglip_224": siglip_so400m(),
}
JPEG_QUALITY = 95  # TensorFlow's default, which the published code uses
_LANGUAGE_SIZES = {  # published name -> ours
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key_value_heads",
}


def read_backbone(
    folder: Path,
    *,
    levels: tuple[int, ...],
    latents: int,
    attention: Attention,
    dtype: Precision,
    encoders: Encoders,
) -> PrismaticConfig:
    """Read the backbone's configuration from `config.json` and `preprocessor_config.json`.

    Args:
        folder: the checkpoint.
        levels: hidden states that the head reads.
        latents: L.
        attention: of the language model, which the files do not say.
        dtype: of the weights.
        encoders: sizes of the image encoders by timm's name.

    Raises:
        RDVLAError: an entry is missing or damaged, or describes another model than the paper's family.
    """
    path = folder / "config.json"
    published = read_object(path)
    for name, wanted in (("use_fused_vision_backbone", True), ("image_resize_strategy", "resize-naive")):
        if published.get(name) != wanted:
            raise RDVLAError(f"{path}: {name} must be {wanted!r}, got {published.get(name)!r}")
    activations = published.get("timm_override_act_layers") or []
    if not isinstance(activations, list) or any(activations):
        raise RDVLAError(f"{path}: timm_override_act_layers names activations that are not supported")
    try:
        dinov2, siglip = _encoders(folder, published, encoders)
        return PrismaticConfig(
            dinov2=dinov2,
            siglip=siglip,
            language=_language(path, published),
            levels=levels,
            latents=latents,
            attention=attention,
            dtype=dtype,
            jpeg_quality=JPEG_QUALITY,
        )
    except ConfigError as error:
        raise RDVLAError(
            f"{path} and the JSON files next to it describe an impossible model: {error}"
        ) from error


def published_layout(policy: RDVLAPolicy) -> PrismaticBackbone:
    """Return the policy's backbone, if the published layout can hold it.

    Raises:
        RDVLAError: it is of another family.
    """
    if not isinstance(policy.backbone, PrismaticBackbone):
        raise RDVLAError("only policies with a prismatic backbone have a published layout")
    return policy.backbone


def has_tied_embeddings(folder: Path) -> bool:
    """Return whether the language model's embeddings are its vocabulary matrix too."""
    path = folder / "config.json"
    return bool(_text_config(path, read_object(path)).get("tie_word_embeddings"))


def _encoders(
    folder: Path, published: dict[str, Any], known: Encoders
) -> tuple[VisionTransformerConfig, VisionTransformerConfig]:
    path = folder / "config.json"
    names, sizes = published.get("timm_model_ids"), published.get("image_sizes")
    if not isinstance(names, list) or not isinstance(sizes, list) or len(names) != 2 or len(sizes) != 2:
        raise RDVLAError(f"{path} must name two timm_model_ids and two image_sizes")
    if not all(is_whole(size) for size in sizes):
        raise RDVLAError(f"{path}: image_sizes must be two whole numbers, got {sizes}")
    unknown = [name for name in names if not isinstance(name, str) or name not in known]
    if unknown:
        raise RDVLAError(
            f"{path} names the image encoder {unknown[0]!r}; known are {', '.join(sorted(known))}."
            f"{nearest(str(unknown[0]), known)}"
        )
    dinov2, siglip = (
        replace(known[name], image_size=size, mean=_three(mean), std=_three(std))
        for name, size, (mean, std) in zip(names, sizes, _scales(folder), strict=True)
    )
    return dinov2, siglip


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _scales(folder: Path) -> list[tuple[list[float], list[float]]]:
    """Return mean and standard deviation of both encoders' pixels.

    `tvf_normalize_params` counts before `means` and `stds`: the published processor uses it, and it holds the
    same numbers rounded to bfloat16.
    """
    path = folder / "preprocessor_config.json"
    processor = read_object(path)
    if processor.get("image_resize_strategy") != "resize-naive":
        raise RDVLAError(f"{path}: image_resize_strategy must be 'resize-naive'")
    used = processor.get("tvf_normalize_params")
    names = "means and stds" if used is None else "tvf_normalize_params"
    try:
        if used is not None:
            pairs = [(entry["mean"], entry["std"]) for entry in used]
        else:
            pairs = list(zip(processor["means"], processor["stds"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise RDVLAError(f"{path} does not say how pixels are scaled ({names}): {error!r}") from error
    if len(pairs) != 2 or not all(
        are_numbers(values) and len(values) == 3 for pair in pairs for values in pair
    ):
        raise RDVLAError(
            f"{path}: {names} must hold three means and deviations for each of two encoders, got {pairs}"
        )
    return pairs


def _language(path: Path, published: dict[str, Any]) -> LanguageConfig:
    text = _text_config(path, published)
    if text.get("model_type") != "qwen2" or text.get("use_sliding_window") or text.get("rope_scaling"):
        raise RDVLAError(
            f"{path}: text_config must describe a Qwen2 model with full attention and plain rotary"
        )
    rotary = text.get("rope_parameters") or text
    missing = [name for name in _LANGUAGE_SIZES if name not in text]
    if missing or not isinstance(rotary, dict) or "rope_theta" not in rotary:
        raise RDVLAError(f"{path}: text_config lacks {missing or ['rope_theta']}")
    constants = {
        "rope_theta": rotary["rope_theta"],
        "rms_norm_eps": text.get("rms_norm_eps", 1e-6),  # Qwen2's default, which published files leave out
    }
    damaged = [name for name in _LANGUAGE_SIZES if not is_whole(text[name])]
    damaged += [name for name, value in constants.items() if not is_number(value)]
    if damaged:
        raise RDVLAError(f"{path}: text_config must give a number as {', '.join(damaged)}; sizes are whole")
    return LanguageConfig(
        **{ours: text[theirs] for theirs, ours in _LANGUAGE_SIZES.items()},
        rotary_base=float(constants["rope_theta"]),
        norm_eps=float(constants["rms_norm_eps"]),
    )


def _text_config(path: Path, published: dict[str, Any]) -> dict[str, Any]:
    text = published.get("text_config")
    if not isinstance(text, dict):
        raise RDVLAError(f"{path} lacks 'text_config', the language model's sizes")
    return text
