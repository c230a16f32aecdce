"""A backbone that trains and runs on two CPU cores.

It stands where the paper has a vision-language model, and yields what the method asks of one: vision tokens,
and learned latent tokens that have read image and instruction, at a middle and at a late layer.

    image tokens --(slots ask by instruction: what is where)--> vision tokens (B, cameras x slots, C)
    [learned latents ; instruction] --layer 1..n, reading the vision tokens--> latents, middle and late
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.backbone.base import Backbone, BackboneConfig, Features
from rdvla.backbone.compact.geometry import bilinear_weights, fourier_features
from rdvla.backbone.compact.image_encoders import ConvEncoder, ConvEncoders, PretrainedImageEncoder
from rdvla.backbone.compact.text_encoders import TEXT_HEADS, ByteEncoder, PretrainedTextEncoder
from rdvla.backbone.pretrained import describe_tokenizer
from rdvla.errors import ConfigError


@BackboneConfig.register_subclass("compact")
@dataclass(frozen=True)
class CompactConfig(BackboneConfig):  # type: ignore[no-untyped-call]
    """Configuration of `CompactBackbone`. The default needs no pretrained weights."""

    num_cameras: int = 3
    image_size: int = 128  # pixels, square
    width: int = 96  # C, context width
    slots: int = 12  # vision tokens a camera
    slot_dim: int = 48  # width of a slot's query against the image tokens
    latents: int = 8  # learned latent tokens; the instruction's token joins them, so that L is one more
    layers: int = 2  # layers of the latent transformer; the middle level is read after half of them
    heads: int = 4  # attention heads of the latent transformer
    conv_stem: int = 32  # channels of the image encoder at stride 4
    conv_width: int = 64  # channels of the image encoder at stride 8: the width of its tokens
    conv_blocks: int = 2  # its residual convolutions at stride 8
    conv_bfloat16: bool = True  # run the image encoder in bfloat16
    text_width: int = 64  # of the instruction encoder trained from scratch
    max_instruction_bytes: int = 96  # longest instruction for the encoder trained from scratch
    environment_state_dim: int = 9  # E, read-out that trains perception; 0: none
    pretrained_image_encoder: str | None = None  # hub id or folder of a vision model, kept frozen
    pretrained_image_layer: int = -3  # which of its hidden states to read
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


class InstructedSlots(nn.Module):
    """Spatial soft-attention: every slot asks, by the instruction, for one thing: what is it, and where?"""

    grid_points: Tensor

    def __init__(self, config: CompactConfig, *, token_width: int, text_width: int, grid: int) -> None:
        super().__init__()
        self.cameras, self.slots, self.dim = config.num_cameras, config.slots, config.slot_dim
        self.key = nn.Linear(token_width, config.slot_dim)
        self.key_positions = nn.Parameter(torch.randn(self.cameras, grid * grid, config.slot_dim) * 0.1)
        self.query = nn.Parameter(torch.randn(self.cameras, self.slots, config.slot_dim))
        self.query_from_text = nn.Linear(text_width, self.cameras * self.slots * config.slot_dim)
        self.value = nn.Linear(token_width, config.width)
        self.where = nn.Linear(18, config.width)
        self.identity = nn.Parameter(torch.randn(self.cameras * self.slots, config.width) * 0.3)
        self.mix = nn.Sequential(
            nn.RMSNorm(config.width), nn.Linear(config.width, 4 * config.width), nn.SiLU(),
            nn.Linear(4 * config.width, config.width),
        )  # fmt: skip
        self.norm = nn.RMSNorm(config.width)
        axis = torch.linspace(-1, 1, grid)
        points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # (grid, grid, 2) x, y
        self.register_buffer("grid_points", points.flatten(0, 1), persistent=False)

    def forward(self, tokens: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """What the slots report, (B, cameras x slots, C), and their attention, (B, cameras, slots, tokens).

        Args:
            tokens: (B, cameras, tokens, token_width).
            text: (B, text_width).
        """
        asked = self.query_from_text(text).unflatten(-1, (self.cameras, self.slots, self.dim))
        queries, keys = self.query + asked, self.key(tokens) + self.key_positions
        attention = torch.softmax(queries @ keys.transpose(-1, -2) * (2 / math.sqrt(self.dim)), dim=-1)
        position = fourier_features(attention @ self.grid_points)  # the expected place of what was asked for
        x = (self.value(attention @ tokens) + 2 * self.where(position)).flatten(1, 2) + self.identity
        return self.norm(x + self.mix(x)), attention


class CompactBackbone(Backbone):
    """See the module's description."""

    levels = ("middle", "late")

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.context_width = config.width
        self.image_encoder, token_width, grid = _image_encoder(config)
        self.text_encoder, text_width = _text_encoder(config)
        self.slots = InstructedSlots(config, token_width=token_width, text_width=text_width, grid=grid)
        self.latents = nn.Parameter(torch.randn(config.latents, config.width) * 0.5)
        self.text_token = nn.Linear(text_width, config.width)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                config.width, config.heads, 4 * config.width, dropout=0.0, batch_first=True, norm_first=True,
                activation="gelu",
            )
            for _ in range(config.layers)
        )  # fmt: skip
        self.readout = (
            nn.Sequential(
                nn.Linear(config.latents * config.width, 256),
                nn.SiLU(),
                nn.Linear(256, config.environment_state_dim),
            )
            if config.environment_state_dim
            else None
        )

    def prepare(self, images: Tensor, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Frozen encoders run here; what a trainable encoder needs is handed on as it is."""
        if isinstance(self.image_encoder, PretrainedImageEncoder):
            prepared = {"image_tokens": self.image_encoder(images)}
        else:
            prepared = {"images": images}
        if isinstance(self.text_encoder, PretrainedTextEncoder):
            return prepared | {"text": self.text_encoder.embed(instructions)}
        return prepared | {"text_bytes": self.text_encoder.tokenize(instructions).to(images.device)}

    def transform(self, prepared: Mapping[str, Tensor]) -> Features:
        """Image tokens -> slots -> latent tokens at the middle and the late layer."""
        tokens, text = self._image_tokens(prepared), self._text(prepared)
        vision, attention = self.slots(tokens, text)  # (B, M, C), (B, cameras, slots, tokens)
        x = torch.cat([self.latents.expand(len(text), -1, -1), self.text_token(text).unsqueeze(1)], dim=1)
        outputs = []
        for layer in self.layers:
            x = layer(x, vision)
            outputs.append(x)  # with the instruction's token: it says which task this is
        return Features(
            vision={"middle": vision, "late": vision},
            latents={"middle": outputs[len(outputs) // 2 - 1], "late": outputs[-1]},
            attention=attention,
        )

    def predict_environment_state(self, features: Features) -> Tensor:
        """(B, E) from the late learned latents."""
        if self.readout is None:
            raise ConfigError(
                "backbone.environment_state_dim is 0: this backbone has no read-out to train perception"
            )
        out: Tensor = self.readout(features.latents["late"][:, :-1].flatten(1))
        return out

    def keypoint_loss(self, features: Features, keypoints: Tensor) -> Tensor:
        """Cross-entropy of the first P slots' attention with where the P points are in each camera's image.

        It tells a slot where to look long before the read-out's error could. Points outside the image are
        left out; the other slots stay free.
        """
        if features.attention is None:
            raise ConfigError("the backbone is frozen: there is no attention left to train with keypoints")
        points = keypoints.shape[2]
        if keypoints.shape[1] != self.config.num_cameras or points > self.config.slots:
            raise ConfigError(
                f"keypoints of {keypoints.shape[1]} cameras with {points} points each do not fit a backbone "
                f"of {self.config.num_cameras} cameras with {self.config.slots} slots each"
            )
        inside = (keypoints.abs() < 1).all(dim=-1)  # (B, cameras, P)
        target = bilinear_weights(keypoints.clamp(-1, 1), math.isqrt(features.attention.shape[-1]))
        entropy = -(target * (features.attention[:, :, :points] + 1e-6).log()).sum(dim=-1)
        return (entropy * inside).sum() / inside.sum().clamp(min=1)

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`: the published encoders' scale of pixels and tokens."""
        facts: dict[str, Any] = {}
        if isinstance(self.image_encoder, PretrainedImageEncoder):
            facts["pixels"] = [self.image_encoder.mean.tolist(), self.image_encoder.std.tolist()]
        if isinstance(self.text_encoder, PretrainedTextEncoder):
            facts["text"] = describe_tokenizer(self.text_encoder.tokenizer)
        return facts

    def external_prefixes(self) -> tuple[str, ...]:
        """Published encoders are loaded by name, not saved again."""
        pretrained = {
            "image_encoder.": isinstance(self.image_encoder, PretrainedImageEncoder),
            "text_encoder.": isinstance(self.text_encoder, PretrainedTextEncoder),
        }
        return tuple(prefix for prefix, is_external in pretrained.items() if is_external)

    def base_models(self) -> tuple[str, ...]:
        """The published encoders."""
        named = (self.config.pretrained_image_encoder, self.config.pretrained_text_encoder)
        return tuple(name for name in named if name is not None)

    def _image_tokens(self, prepared: Mapping[str, Tensor]) -> Tensor:
        if "image_tokens" in prepared:
            return prepared["image_tokens"].to(self.latents.dtype)
        tokens: Tensor = self.image_encoder(prepared["images"])
        return tokens

    def _text(self, prepared: Mapping[str, Tensor]) -> Tensor:
        if "text" in prepared:
            return prepared["text"].to(self.latents.dtype)
        text: Tensor = self.text_encoder(prepared["text_bytes"])
        return text


def _image_encoder(config: CompactConfig) -> tuple[ConvEncoders | PretrainedImageEncoder, int, int]:
    if config.pretrained_image_encoder is None:
        scratch = ConvEncoders(
            config.num_cameras, stem=config.conv_stem, width=config.conv_width, blocks=config.conv_blocks,
            bfloat16=config.conv_bfloat16,
        )  # fmt: skip
        return scratch, config.conv_width, ConvEncoder.grid(config.image_size)
    published = PretrainedImageEncoder(
        config.pretrained_image_encoder, layer=config.pretrained_image_layer, image_size=config.image_size
    )
    return published, published.width, published.grid


def _text_encoder(config: CompactConfig) -> tuple[ByteEncoder | PretrainedTextEncoder, int]:
    if config.pretrained_text_encoder is None:
        return ByteEncoder(width=config.text_width, max_bytes=config.max_instruction_bytes), config.text_width
    published = PretrainedTextEncoder(config.pretrained_text_encoder)
    return published, published.width
