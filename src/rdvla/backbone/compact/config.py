"""Sizes and choices of the compact backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rdvla.backbone.config import BackboneConfig, must_match
from rdvla.errors import ConfigError, optional

if TYPE_CHECKING:
    from rdvla.backbone.compact.backbone import CompactBackbone
    from rdvla.heads import Level

LEVELS = ("middle", "late")  # of the context, as the head names them
TEXT_HEADS = 4  # attention heads of the instruction encoder trained from scratch


@BackboneConfig.register_subclass("compact")
@dataclass(frozen=True)
class CompactConfig(BackboneConfig):  # type: ignore[no-untyped-call]
    """Sizes and choices of `CompactBackbone`. The default needs no pretrained weights."""

    num_cameras: int = 3
    image_size: int = 128  # pixels, square
    width: int = 96  # C, context width
    slots: int = 12  # vision tokens per camera
    slot_dim: int = 48  # width of a slot's query against the image tokens
    latents: int = 8  # learned latent tokens; with the instruction's token, L is one more
    layers: int = 2  # layers of the latent transformer; the middle level comes after half of them
    heads: int = 4  # attention heads of the latent transformer
    conv_stem: int = 32  # channels of the image encoder at stride 4
    conv_width: int = 64  # channels of the image encoder at stride 8, the width of its tokens
    conv_blocks: int = 2  # its residual convolutions at stride 8
    conv_bfloat16: bool = True  # run the image encoder trained from scratch in bfloat16
    text_width: int = 64  # width of the instruction encoder trained from scratch
    max_instruction_bytes: int = 96  # longest instruction for the same encoder
    environment_state_dim: int = 9  # E, numbers of the read-out that trains perception; 0: no read-out
    pretrained_image_encoder: str | None = None  # hub id or folder of a vision model, kept frozen
    pretrained_image_layer: int = -3  # hidden state to take; 0: embeddings, -1: the last layer
    pretrained_text_encoder: str | None = None  # hub id or folder of a sentence encoder, kept frozen

    def __post_init__(self) -> None:
        for field in (
            "num_cameras", "width", "slots", "slot_dim", "latents", "heads",
            "conv_stem", "conv_width", "text_width", "max_instruction_bytes",
        ):  # fmt: skip
            if getattr(self, field) < 1:
                raise ConfigError(f"backbone.{field} must be at least 1, got {getattr(self, field)}")
        if self.layers < 2:
            raise ConfigError(
                f"backbone.layers must be at least 2, for a middle and a late level, got {self.layers}"
            )
        if self.width % self.heads:
            raise ConfigError(
                f"backbone.width ({self.width}) must be a multiple of backbone.heads ({self.heads})"
            )
        if self.image_size % 16 or self.image_size < 16:
            raise ConfigError(f"backbone.image_size must be a multiple of 16, got {self.image_size}")
        if self.text_width % TEXT_HEADS:
            raise ConfigError(
                f"backbone.text_width must be a multiple of {TEXT_HEADS}, got {self.text_width}"
            )
        if self.environment_state_dim < 0:
            raise ConfigError(
                f"backbone.environment_state_dim must not be negative, got {self.environment_state_dim}"
            )

    def make(self) -> CompactBackbone:
        """See `BackboneConfig.make`."""
        from rdvla.backbone.compact.backbone import CompactBackbone

        with optional("vlm"):  # the extra that brings published encoders
            return CompactBackbone(self)

    def check(self, *, cameras: int, image_size: int, levels: Sequence[Level]) -> None:
        """See `BackboneConfig.check`."""
        must_match("number of cameras", cameras, "backbone.num_cameras", self.num_cameras)
        must_match("policy.image_size", image_size, "backbone.image_size", self.image_size)
        unknown = [level for level in levels if level not in LEVELS]
        if unknown:
            raise ConfigError(
                f"the head reads the level {unknown[0]!r}, the compact backbone yields "
                f"{' and '.join(LEVELS)}: name one of them in head.prelude, head.core and head.coda"
            )

    def in_float32(self) -> CompactConfig:
        """See `BackboneConfig.in_float32`."""
        return replace(self, conv_bfloat16=False)
