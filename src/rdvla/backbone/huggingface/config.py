"""Sizes and choices of a vision-language model of transformers as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from rdvla.backbone.config import BackboneConfig, LoraSettings, Precision, check_head_levels, check_levels
from rdvla.errors import ConfigError, optional, require_range

if TYPE_CHECKING:
    from rdvla.backbone.huggingface.backbone import HuggingFaceBackbone
    from rdvla.heads import Level

MOST_TOKENS = 2**14  # of a prompt's part

QUESTION = "What action should the robot take to {instruction}?"


@BackboneConfig.register_subclass("huggingface")
@dataclass(frozen=True)
class HuggingFaceConfig(BackboneConfig):  # type: ignore[no-untyped-call]
    """Sizes and choices of `HuggingFaceBackbone`."""

    tuning_fields: ClassVar[tuple[str, ...]] = ("lora", "gradient_checkpointing")
    naming_fields: ClassVar[tuple[str, ...]] = ("name_or_path", "revision")

    lora: LoraSettings = field(default_factory=LoraSettings)
    name_or_path: str = ""  # hub id or folder of a vision-language model in transformers' layout
    revision: str | None = None  # commit, branch or tag on the hub; null: its newest
    levels: tuple[int, ...] = (12, 24)  # hidden states the head may read; 0: embeddings, n: after n layers
    latents: int = 64  # L, learned latent tokens
    image_size: int | None = None  # pixels, square, that images are scaled to; null: the model's own size
    question: str = QUESTION  # {instruction} stands for the instruction in lower case
    max_text_tokens: int = 96  # longest prompt, without its image tokens
    reasoning_tokens: int = 0  # N, text generated before the latents; the head reads it too
    dtype: Precision = "bfloat16"  # of published weights; latents and LoRA are float32
    gradient_checkpointing: bool = False  # in training, compute activations twice instead of keeping them

    def __post_init__(self) -> None:
        for name in ("latents", "max_text_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"backbone.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("latents", "max_text_tokens", "reasoning_tokens"):
            require_range(f"backbone.{name}", getattr(self, name), most=MOST_TOKENS)
        if self.reasoning_tokens < 0:
            raise ConfigError(f"backbone.reasoning_tokens must not be negative, got {self.reasoning_tokens}")
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"backbone.image_size must be at least 1 or null, got {self.image_size}")
        check_levels(self.levels)
        if "{instruction}" not in self.question:
            raise ConfigError(f"backbone.question must hold {{instruction}}, got {self.question!r}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"backbone.dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")

    def make(self) -> HuggingFaceBackbone:
        """See `BackboneConfig.make`."""
        with optional("vlm"):
            from rdvla.backbone.huggingface.backbone import HuggingFaceBackbone

            return HuggingFaceBackbone(self)

    def check(self, *, cameras: int, image_size: int, levels: Sequence[Level]) -> None:  # noqa: ARG002
        """See `BackboneConfig.check`; any number of cameras fits, and images are scaled."""
        check_head_levels(levels, levels=self.levels)

    def without_published(self) -> None:
        """See `BackboneConfig.without_published`."""

    def in_float32(self) -> HuggingFaceConfig:
        """See `BackboneConfig.in_float32`."""
        return replace(self, dtype="float32")
