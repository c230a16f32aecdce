"""Encoders of camera images: small convolutions per camera, or a frozen published model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.backbone.pretrained import describe_architecture, image_scale
from rdvla.errors import ConfigError

STRIDE = 8  # pixels along one side of a token of the encoder trained from scratch


class ImageEncoder(nn.Module, ABC):
    """Camera images, (B, cameras, H, W, 3) uint8, to (B, cameras, grid x grid, width) tokens."""

    published: ClassVar[bool]  # frozen, and loaded by name
    width: int  # of a token
    grid: int  # tokens along one side of an image

    @abstractmethod
    def prepare(self, images: Tensor) -> dict[str, Tensor]:
        """See `Backbone.prepare`."""

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`."""
        return {}

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {}


class ConvEncoder(nn.Module):
    """A small ConvNet for a single camera, trained from scratch: tokens at an eighth of the resolution.

    Residual 3x3 convolutions at stride 8, with a coarser branch at stride 16 added. Dense convolutions
    without normalisation run fastest on a CPU.
    """

    def __init__(self, *, stem: int, width: int, blocks: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, stem, 4, stride=4)
        self.down = nn.Conv2d(stem, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.coarse_down = nn.Conv2d(width, width, 2, stride=2)
        self.coarse = nn.Conv2d(width, width, 3, padding=1)
        self.coarse_up = nn.Conv2d(width, width, 1)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for branch in (*self.blocks, self.coarse_up):
            assert isinstance(branch, nn.Conv2d)
            branch.weight.mul_(0.5)  # keeps the residual sum from growing

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], channels last -> (B, tokens, width)."""
        x = functional.relu(self.down(functional.relu(self.patches(pixels))))
        for block in self.blocks:
            x = x + functional.relu(block(x))
        coarse = functional.relu(self.coarse(functional.relu(self.coarse_down(x))))
        x = x + functional.interpolate(self.coarse_up(coarse), scale_factor=2.0, mode="nearest")
        return x.permute(0, 2, 3, 1).flatten(1, 2)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; accelerators do."""
    if device.type != "cpu":
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class ConvEncoders(ImageEncoder):
    """A `ConvEncoder` per camera, as each camera sees another world.

    In bfloat16 they run 2-3 times faster on a processor that has it, at no cost in accuracy. Emulated it
    would be several times slower than float32, so others compute in float32. Weights stay in float32.
    """

    published = False

    def __init__(
        self, cameras: int, *, image_size: int, stem: int, width: int, blocks: int, bfloat16: bool
    ) -> None:
        super().__init__()
        self.width, self.grid = width, image_size // STRIDE
        self.encoders = nn.ModuleList(
            ConvEncoder(stem=stem, width=width, blocks=blocks) for _ in range(cameras)
        )
        self.encoders.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no such overload
        self.norm = nn.RMSNorm(width)
        self.use_bfloat16 = bfloat16

    def prepare(self, images: Tensor) -> dict[str, Tensor]:
        """Hand the images on."""
        return {"images": images}

    def forward(self, images: Tensor) -> Tensor:
        """(B, cameras, H, W, 3) uint8 -> (B, cameras, tokens, width)."""
        use_bfloat16 = self.use_bfloat16 and computes_bfloat16(images.device)
        dtype = torch.bfloat16 if use_bfloat16 else torch.float32
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=use_bfloat16):
            tokens = [
                encoder((images[:, camera].to(dtype) / 127.5 - 1).permute(0, 3, 1, 2))
                for camera, encoder in enumerate(self.encoders)
            ]
        out: Tensor = self.norm(torch.stack(tokens, dim=1).float())
        return out


class PretrainedImageEncoder(ImageEncoder):
    """Frozen patch features of a vision model of transformers (DINOv2, SigLIP, ...), a hub id or a folder."""

    published = True

    def __init__(self, name_or_path: str, *, layer: int, image_size: int) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        try:
            config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
            config = getattr(config, "vision_config", config)
            model = AutoModel.from_pretrained(
                name_or_path, config=config, use_safetensors=True, trust_remote_code=False
            )
            scale = image_scale(name_or_path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"backbone.pretrained_image_encoder: {name_or_path}: {error}") from error
        states = config.num_hidden_layers + 1  # the embeddings come first
        if not -states <= layer < states:
            raise ConfigError(
                f"backbone.pretrained_image_layer must be {-states} to {states - 1} for {name_or_path}, "
                f"got {layer}"
            )
        self.model = model.eval().requires_grad_(False)
        self.layer = layer
        self.image_size = image_size // config.patch_size * config.patch_size
        self.grid = self.image_size // config.patch_size
        self.width = config.hidden_size
        # Each family was trained on its own scale.
        mean, std = (torch.tensor(values) for values in scale)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    mean: Tensor
    std: Tensor

    def train(self, mode: bool = True) -> PretrainedImageEncoder:  # noqa: FBT001
        """Keep dropout off: a frozen encoder always returns the same."""
        super().train(mode)
        self.model.eval()
        return self

    def prepare(self, images: Tensor) -> dict[str, Tensor]:
        """Encode the images."""
        return {"image_tokens": self(images)}

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`: the scale of the pixels."""
        return {"pixels": [self.mean.tolist(), self.std.tolist()]}

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {"image": describe_architecture(self.model)}

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, cameras, H, W, 3) uint8 -> (B, cameras, tokens, width); scaled to a whole number of patches."""
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-1] != self.image_size:
            pixels = functional.interpolate(pixels, size=self.image_size, mode="bilinear", antialias=True)
        output = self.model(pixel_values=(pixels - self.mean) / self.std, output_hidden_states=True)
        tokens: Tensor = output.hidden_states[self.layer]
        patches = tokens[:, tokens.shape[1] - self.grid**2 :]  # class and register tokens come first
        return patches.reshape(*images.shape[:2], self.grid**2, self.width)
