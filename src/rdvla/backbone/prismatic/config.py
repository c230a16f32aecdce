"""Sizes and choices of the paper's backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from rdvla.backbone.config import (
    LARGEST,
    MOST_LAYERS,
    BackboneConfig,
    LoraSettings,
    Precision,
    check_head_levels,
    check_levels,
)
from rdvla.errors import ConfigError, optional, require_range

if TYPE_CHECKING:
    from rdvla.backbone.prismatic.backbone import PrismaticBackbone
    from rdvla.heads import Level

Attention = Literal["causal", "bidirectional"]


@dataclass(frozen=True)
class VisionTransformerConfig:
    """Sizes of an image encoder."""

    width: int  # of its tokens
    depth: int  # blocks of the published encoder; its last block is not built, as its output is not used
    heads: int  # attention heads
    mlp_width: int  # inner width of the feed-forward layers
    mean: tuple[float, float, float]  # of red, green and blue (0..1), subtracted from pixels
    std: tuple[float, float, float]  # that pixels are divided by then
    patch_size: int = 14  # pixels, square
    image_size: int = 224  # pixels, square
    class_token: bool = False  # a learned token in front of the patches
    registers: int = 0  # learned tokens after the class token
    layer_scale: bool = False  # the output of each branch is multiplied by a learned vector

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp_width", "patch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"an image encoder's {name} must be at least 1, got {getattr(self, name)}")
        require_range("an image encoder's depth", self.depth, most=MOST_LAYERS)
        for name in ("width", "mlp_width", "image_size", "registers"):
            require_range(f"an image encoder's {name}", getattr(self, name), most=LARGEST)
        if self.depth < 2:
            raise ConfigError(
                "an image encoder's depth must be at least 2, to have a second-to-last block, "
                f"got {self.depth}"
            )
        if self.width % self.heads:
            raise ConfigError(
                f"an image encoder's width ({self.width}) must be a multiple of its heads ({self.heads})"
            )
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ConfigError(
                f"an image encoder's image_size ({self.image_size}) must be a multiple of its patch_size "
                f"({self.patch_size})"
            )
        if self.registers < 0:
            raise ConfigError(f"an image encoder's registers must not be negative, got {self.registers}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"an image encoder's mean and std are three numbers each, std above 0; got {self.mean} and "
                f"{self.std}"
            )

    @property
    def patches(self) -> int:
        """Number of patches per image."""
        return (self.image_size // self.patch_size) ** 2


def dinov2_large() -> VisionTransformerConfig:
    """DINOv2-L/14 with four registers (timm: vit_large_patch14_reg4_dinov2)."""
    return VisionTransformerConfig(
        width=1024, depth=24, heads=16, mlp_width=4096, class_token=True, registers=4, layer_scale=True,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip


def siglip_so400m() -> VisionTransformerConfig:
    """SigLIP so400m/14 (timm: vit_so400m_patch14_siglip_224)."""
    return VisionTransformerConfig(
        width=1152, depth=27, heads=16, mlp_width=4304, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


@dataclass(frozen=True)
class LanguageConfig:
    """Sizes of a Qwen2 language model; the defaults are Qwen2.5-0.5B's."""

    vocab_size: int = 151_936  # tokens
    width: int = 896  # D, of the hidden states
    mlp_width: int = 4864  # inner width of the feed-forward layers
    layers: int = 24  # of the published model; layers above the last level are not built
    heads: int = 14  # attention heads
    key_value_heads: int = 2  # heads of keys and values
    rotary_base: float = 1_000_000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "mlp_width", "layers", "heads", "key_value_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"backbone.language.{name} must be at least 1, got {getattr(self, name)}")
        require_range("backbone.language.layers", self.layers, most=MOST_LAYERS)
        for name in ("vocab_size", "width", "mlp_width"):
            require_range(f"backbone.language.{name}", getattr(self, name), most=LARGEST)
        require_range("backbone.language.rotary_base", self.rotary_base, least=1, most=1e12)
        require_range("backbone.language.norm_eps", self.norm_eps, above=0, most=1)
        if self.width % self.heads or self.width // self.heads % 2:
            raise ConfigError(
                f"backbone.language.width ({self.width}) over heads ({self.heads}) must be a whole, even "
                "number"
            )
        if self.heads % self.key_value_heads:
            raise ConfigError(
                f"backbone.language.heads ({self.heads}) must be a multiple of key_value_heads "
                f"({self.key_value_heads})"
            )


@BackboneConfig.register_subclass("prismatic")
@dataclass(frozen=True)
class PrismaticConfig(BackboneConfig):  # type: ignore[no-untyped-call]
    """Sizes and choices of `PrismaticBackbone`; the defaults are the paper's (1.19 B parameters)."""

    tuning_fields: ClassVar[tuple[str, ...]] = ("lora", "gradient_checkpointing")

    dinov2: VisionTransformerConfig = field(default_factory=dinov2_large)
    siglip: VisionTransformerConfig = field(default_factory=siglip_so400m)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    # Published configurations count layers from 0, and these numbers index a list with the embeddings in
    # front: their "layers" 11 and 23 are the states after 11 and 23 layers.
    levels: tuple[int, ...] = (11, 23)  # hidden states the head may read; 0: embeddings, n: after n layers
    latents: int = 64  # L, learned latent tokens after the prompt
    attention: Attention = "causal"  # over the sequence; bidirectional: every token sees every other
    dtype: Precision = "bfloat16"  # of published weights; latents and LoRA are float32
    crop_area: float = 0.9  # share of each image's area that the centre crop keeps; 1: no crop
    jpeg_quality: int | None = None  # of a JPEG round trip before images are resized, 1..100; null: none
    max_prompt_tokens: int = 128  # longest prompt; the chat template takes about 40
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(where="none"))
    gradient_checkpointing: bool = False  # in training, compute activations twice instead of keeping them

    def __post_init__(self) -> None:
        for name in ("latents", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"backbone.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("latents", "max_prompt_tokens"):
            require_range(f"backbone.{name}", getattr(self, name), most=LARGEST)
        for name, allowed in (
            ("attention", ("causal", "bidirectional")), ("dtype", ("float32", "bfloat16"))
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ConfigError(f"backbone.{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not 0 < self.crop_area <= 1:
            raise ConfigError(f"backbone.crop_area must be above 0 and at most 1, got {self.crop_area}")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"backbone.jpeg_quality must be 1 to 100 or null, got {self.jpeg_quality}")
        check_levels(self.levels, count=self.language.layers)
        for name in ("image_size", "patches"):
            of_dinov2, of_siglip = getattr(self.dinov2, name), getattr(self.siglip, name)
            if of_dinov2 != of_siglip:
                raise ConfigError(
                    f"both image encoders must have the same {name}, as their features are concatenated; "
                    f"got {of_dinov2} and {of_siglip}"
                )

    def make(self) -> PrismaticBackbone:
        """See `BackboneConfig.make`."""
        with optional("vlm"):
            from rdvla.backbone.prismatic.backbone import PrismaticBackbone

            return PrismaticBackbone(self)

    def check(self, *, cameras: int, image_size: int, levels: Sequence[Level]) -> None:  # noqa: ARG002
        """See `BackboneConfig.check`; any number of cameras fits, and images are scaled."""
        check_head_levels(levels, levels=self.levels)

    def in_float32(self) -> PrismaticConfig:
        """See `BackboneConfig.in_float32`."""
        return replace(self, dtype="float32")
