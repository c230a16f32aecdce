"""The modules of the paper's backbone that are published: two image encoders, projector, language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.backbone.pretrained import checkpoint_activations
from rdvla.backbone.prismatic.config import LanguageConfig, PrismaticConfig
from rdvla.backbone.prismatic.vision_transformer import VisionTransformer


class PublishedModel(nn.Module):
    """Image encoders, projector and language model, with parameters under their published names."""

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        with _default_dtype(getattr(torch, config.dtype)):
            self.vision_backbone = _FusedEncoders(config)
            self.projector = _Projector(config.dinov2.width + config.siglip.width, config.language.width)
            self.language_model = _language_model(config.language, last=max(config.levels))

    def hidden_states(self, embeddings: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """(B, S, D) embeddings -> the embeddings and the state after each layer, each (B, S, D)."""
        output = self.language_model(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": mask},
            use_cache=False,
            output_hidden_states=True,
        )
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    def checkpoint_gradients(self) -> None:
        """Compute activations twice in training instead of keeping them."""
        for encoder in (self.vision_backbone.featurizer, self.vision_backbone.fused_featurizer):
            encoder.gradient_checkpointing = True
        checkpoint_activations(self.language_model)


class _FusedEncoders(nn.Module):
    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        self.featurizer = VisionTransformer(config.dinov2)
        self.fused_featurizer = VisionTransformer(config.siglip)

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, patches, both widths), DINOv2's features first."""
        return torch.cat([self.featurizer(images), self.fused_featurizer(images)], dim=-1)


class _Projector(nn.Module):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """(N, patches, features) -> (N, patches, width)."""
        out: Tensor = self.fc3(functional.gelu(self.fc2(functional.gelu(self.fc1(features)))))
        return out


def _language_model(config: LanguageConfig, *, last: int) -> Any:
    """Qwen2 up to layer `last`."""
    from transformers import Qwen2Config, Qwen2Model

    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": last,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "attn_implementation": "sdpa",
    }
    model: Any = Qwen2Model(Qwen2Config(**sizes))
    if last < config.layers:
        model.norm = nn.Identity()  # only the output of the published last layer is normalised
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new weights in a dtype; a later cast would round constants too and need memory for both."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
