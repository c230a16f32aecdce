"""A backbone that trains and runs on two CPU cores.

It replaces the paper's vision-language model and returns the same: vision tokens, and learned latent
tokens that attend to image and instruction, at a middle and at a late layer.

    image tokens --(slots ask by instruction: what is where)--> vision tokens (B, cameras x slots, C)
    [learned latents ; instruction] --layers 1..n attend to vision tokens--> latents, middle and late
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.backbone.base import Backbone, ExportSteps, Features, inside_image
from rdvla.backbone.compact.config import LEVELS, CompactConfig
from rdvla.backbone.compact.image_encoders import ConvEncoders, ImageEncoder, PretrainedImageEncoder
from rdvla.backbone.compact.slots import InstructedSlots, bilinear_weights
from rdvla.backbone.compact.text_encoders import ByteEncoder, PretrainedTextEncoder, TextEncoder
from rdvla.errors import ConfigError


class CompactBackbone(Backbone):
    """See the top of this file."""

    levels = LEVELS

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.context_width = config.width
        self.image_encoder = image_encoder = _image_encoder(config)
        self.text_encoder = text_encoder = _text_encoder(config)
        self.slots = InstructedSlots(
            config,
            token_width=image_encoder.width,
            text_width=text_encoder.width,
            grid=image_encoder.grid,
        )
        self.latents = nn.Parameter(torch.randn(config.latents, config.width) * 0.5)
        self.text_token = nn.Linear(text_encoder.width, config.width)
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
        """Run frozen encoders; hand on what a trainable encoder needs."""
        return self.image_encoder.prepare(images) | self.text_encoder.prepare(instructions, images.device)

    def transform(self, prepared: Mapping[str, Tensor]) -> Features:
        """Compute slots from image tokens, and latents at the middle and the late layer from slots."""
        tokens, text = self._image_tokens(prepared), self._text(prepared)
        vision, attention = self.slots(tokens, text)  # (B, M, C), (B, cameras, slots, tokens)
        x = torch.cat([self.latents.expand(len(text), -1, -1), self.text_token(text).unsqueeze(1)], dim=1)
        outputs = []
        for layer in self.layers:
            x = self.checkpointed(layer, x, vision)
            outputs.append(x)  # with the instruction's token, which names the task
        return Features(
            vision={"middle": vision, "late": vision},
            latents={"middle": outputs[len(outputs) // 2 - 1], "late": outputs[-1]},
            attention=attention,
        )

    def check_instructions(self, instructions: Sequence[str]) -> None:
        """See `Backbone.check_instructions`."""
        self.text_encoder.check(instructions)

    def predict_environment_state(self, features: Features) -> Tensor:
        """See `Backbone.predict_environment_state`: from the late learned latents."""
        if self.readout is None:
            raise ConfigError(
                "backbone.environment_state_dim is 0: this backbone has no read-out to train perception"
            )
        out: Tensor = self.readout(features.latents["late"][:, :-1].flatten(1))
        return out

    def keypoint_loss(self, features: Features, keypoints: Tensor) -> Tensor:
        """Return the cross-entropy between the first P slots' attention and the P points per camera.

        It guides a slot long before the read-out's error could. Points outside the image are left out; the
        other slots stay free.
        """
        if features.attention is None:
            raise ConfigError("the backbone is frozen: there is no attention left to train with keypoints")
        points = keypoints.shape[2]
        if keypoints.shape[1] != self.config.num_cameras or points > self.config.slots:
            raise ConfigError(
                f"keypoints of {keypoints.shape[1]} cameras with {points} points each do not fit a backbone "
                f"of {self.config.num_cameras} cameras with {self.config.slots} slots each"
            )
        inside = inside_image(keypoints)  # (B, cameras, P)
        target = bilinear_weights(keypoints.clamp(-1, 1), math.isqrt(features.attention.shape[-1]))
        entropy = -(target * (features.attention[:, :, :points] + 1e-6).log()).sum(dim=-1)
        return (entropy * inside).sum() / inside.sum().clamp(min=1)

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`: pixel scale and tokenizer of published encoders."""
        return self.image_encoder.preparation() | self.text_encoder.preparation()

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`: of published encoders."""
        return self.image_encoder.architecture() | self.text_encoder.architecture()

    def external_prefixes(self) -> tuple[str, ...]:
        """See `Backbone.external_prefixes`: the published encoders, which are loaded by name."""
        return tuple(
            f"{name}."
            for name, encoder in (("image_encoder", self.image_encoder), ("text_encoder", self.text_encoder))
            if encoder.published
        )

    def base_models(self) -> tuple[str, ...]:
        """See `Backbone.base_models`: the published encoders."""
        named = (self.config.pretrained_image_encoder, self.config.pretrained_text_encoder)
        return tuple(name for name in named if name is not None)

    def export_steps(self) -> ExportSteps:
        """See `Backbone.export_steps`."""

        def prepare(images: Tensor, text: Tensor) -> dict[str, Tensor]:
            return {"image_tokens": self.image_encoder(images), "text": text}

        return ExportSteps(prepare, self.text_encoder.export_steps())

    def _image_tokens(self, prepared: Mapping[str, Tensor]) -> Tensor:
        if "image_tokens" in prepared:
            return prepared["image_tokens"].to(self.latents.dtype)
        tokens: Tensor = self.checkpointed(self.image_encoder, prepared["images"])
        return tokens

    def _text(self, prepared: Mapping[str, Tensor]) -> Tensor:
        if "text" in prepared:
            return prepared["text"].to(self.latents.dtype)
        text: Tensor = self.text_encoder(prepared["text_bytes"])
        return text


def _image_encoder(config: CompactConfig) -> ImageEncoder:
    if config.pretrained_image_encoder is None:
        return ConvEncoders(
            config.num_cameras, image_size=config.image_size, stem=config.conv_stem, width=config.conv_width,
            blocks=config.conv_blocks, bfloat16=config.conv_bfloat16,
        )  # fmt: skip
    return PretrainedImageEncoder(
        config.pretrained_image_encoder, layer=config.pretrained_image_layer, image_size=config.image_size
    )


def _text_encoder(config: CompactConfig) -> TextEncoder:
    if config.pretrained_text_encoder is None:
        return ByteEncoder(width=config.text_width, max_bytes=config.max_instruction_bytes)
    return PretrainedTextEncoder(config.pretrained_text_encoder)
