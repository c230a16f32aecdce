"""Sizes and choices of the compact backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from rdvla.backbone.config import LARGEST, MOST_LAYERS, BackboneConfig, must_match
from rdvla.errors import ConfigError, optional, require_range

if TYPE_CHECKING:
    from rdvla.backbone.compact.backbone import CompactBackbone
    from rdvla.heads import Level

LEVELS = ("middle", "late")  # of the context, as the head names them
IMAGE_SIZE = 128  # pixels, unless the recorded images are smaller
TEXT_HEADS = 4  # attention heads of the instruction encoder trained from scratch


@BackboneConfig.register_subclass("compact")
@dataclass(frozen=True)
class CompactConfig(BackboneConfig):  # type: ignore[no-untyped-call]
    """Sizes and choices of `CompactBackbone`. The default needs no pretrained weights."""

    naming_fields: ClassVar[tuple[str, ...]] = ("pretrained_image_encoder", "pretrained_text_encoder")

    num_cameras: int = 0  # 0: as many as the policy has
    image_size: int = 0  # pixels, square; 0: the policy's
    width: int = 96  # C, context width
    slots: int = 12  # vision tokens per camera
    slot_dim: int = 48  # width of a slot's query against the image tokens
    latents: int = 8  # learned latent tokens; with the instruction's token, L is one more
    layers: int = 2  # layers of the latent transformer; the middle level comes after half of them
    heads: int = 4  # attention heads of the latent transformer
    conv_stem: int = 32  # channels of the image encoder at stride 4
    conv_width: int = 64  # channels of the image encoder at stride 8, the width of its tokens
    conv_blocks: int = 2  # its residual convolutions at stride 8
    conv_bfloat16: bool = True  # image encoder trained from scratch in bfloat16, if the device has it
    text_width: int = 64  # width of the instruction encoder trained from scratch
    max_instruction_bytes: int = 96  # longest instruction for the same encoder
    environment_state_dim: int | None = None  # E, perception's read-out, 0: none; null: if trained
    pretrained_image_encoder: str | None = None  # hub id or folder of a vision model, kept frozen
    pretrained_image_layer: int = -3  # hidden state to take; 0: embeddings, -1: the last layer
    pretrained_text_encoder: str | None = None  # hub id or folder of a sentence encoder, kept frozen

    def __post_init__(self) -> None:
        for field in (
            "width", "slots", "slot_dim", "latents", "heads",
            "conv_stem", "conv_width", "text_width", "max_instruction_bytes",
        ):  # fmt: skip
            if getattr(self, field) < 1:
                raise ConfigError(f"backbone.{field} must be at least 1, got {getattr(self, field)}")
        self._check_ranges()
        if self.layers < 2:
            raise ConfigError(
                f"backbone.layers must be at least 2, for a middle and a late level, got {self.layers}"
            )
        if self.width % self.heads:
            raise ConfigError(
                f"backbone.width ({self.width}) must be a multiple of backbone.heads ({self.heads})"
            )
        if self.image_size % 16:
            raise ConfigError(f"backbone.image_size must be a multiple of 16, got {self.image_size}")
        for field in ("num_cameras", "image_size", "environment_state_dim"):
            if (getattr(self, field) or 0) < 0:
                raise ConfigError(f"backbone.{field} must not be negative, got {getattr(self, field)}")
        if self.text_width % TEXT_HEADS:
            raise ConfigError(
                f"backbone.text_width must be a multiple of {TEXT_HEADS}, got {self.text_width}"
            )

    def _check_ranges(self) -> None:
        for field, most in (("layers", MOST_LAYERS), ("conv_blocks", MOST_LAYERS), ("num_cameras", 1000)):
            require_range(f"backbone.{field}", getattr(self, field), least=0, most=most)
        for field in (
            "width", "slots", "slot_dim", "latents", "heads", "image_size",
            "conv_stem", "conv_width", "text_width", "max_instruction_bytes",
        ):  # fmt: skip
            require_range(f"backbone.{field}", getattr(self, field), most=LARGEST)
        require_range("backbone.environment_state_dim", self.environment_state_dim or 0, most=LARGEST)

    def make(self) -> CompactBackbone:
        """See `BackboneConfig.make`."""
        from rdvla.backbone.compact.backbone import CompactBackbone

        for field in ("num_cameras", "image_size"):
            if getattr(self, field) == 0:
                raise ConfigError(f"backbone.{field} is open: set it, or build the backbone within a policy")
        with optional("vlm"):  # the extra that brings published encoders
            return CompactBackbone(self)

    def check(self, *, cameras: int, image_size: int, levels: Sequence[Level]) -> None:
        """See `BackboneConfig.check`."""
        if cameras and self.num_cameras:
            must_match("number of cameras", cameras, "backbone.num_cameras", self.num_cameras)
        if image_size and self.image_size:
            must_match("policy.image_size", image_size, "backbone.image_size", self.image_size)
        unknown = [level for level in levels if level not in LEVELS]
        if unknown:
            raise ConfigError(
                f"the head reads the level {unknown[0]!r}, the compact backbone yields "
                f"{' and '.join(LEVELS)}: name one of them in head.prelude, head.core and head.coda"
            )

    def fitted(self, *, cameras: int, image_size: int, environment_state_dim: int) -> CompactConfig:
        """See `BackboneConfig.fitted`."""
        read_out = environment_state_dim if self.environment_state_dim is None else self.environment_state_dim
        return replace(
            self,
            num_cameras=self.num_cameras or cameras,
            image_size=self.image_size or image_size,
            environment_state_dim=read_out,
        )

    def choose_image_size(self, recorded: Sequence[tuple[int, int]]) -> int:
        """See `BackboneConfig.choose_image_size`: small squares stay, everything else gets 128 pixels."""
        if self.image_size:
            return self.image_size
        height, width = recorded[0]
        keeps = len(set(recorded)) == 1 and height == width <= IMAGE_SIZE and height % 16 == 0
        return height if keeps else IMAGE_SIZE

    def without_published(self) -> CompactConfig:
        """See `BackboneConfig.without_published`."""
        if self.pretrained_image_encoder is None and self.pretrained_text_encoder is None:
            return self
        return replace(self, pretrained_image_encoder=None, pretrained_text_encoder=None)

    def in_float32(self) -> CompactConfig:
        """See `BackboneConfig.in_float32`."""
        return replace(self, conv_bfloat16=False)
