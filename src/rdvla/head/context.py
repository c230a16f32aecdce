"""What a backbone hands to the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rdvla.head.config import HeadConfig, Level


@dataclass(frozen=True)
class Context:
    """Backbone features of a batch of observations; C is the context width, D unless configured otherwise."""

    vision: Mapping[Level, Tensor]  # h_vis by level, each (B, M, C)
    latents: Mapping[Level, Tensor]  # h_lat by level, each (B, L, C)
    proprio: Tensor  # p, (B, 1, C)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.proprio.shape[0]


def build_context(
    config: HeadConfig, *, vision: Mapping[Level, Tensor], latents: Mapping[Level, Tensor], proprio: Tensor
) -> Context:
    """Check that every level a block reads is there, in matching shapes, and keep those levels.

    Raises:
        ValueError: a level is missing, or a tensor has the wrong shape.
    """
    width = config.context_width
    if proprio.ndim != 3 or proprio.shape[1:] != (1, width):
        raise ValueError(f"proprio must be (B, 1, {width}), got {tuple(proprio.shape)}")
    for kind, features in (("vision", vision), ("latents", latents)):
        for level in config.levels:
            if level not in features:
                raise ValueError(
                    f"{kind} lacks the context level {level!r}; it has {sorted(map(str, features))}"
                )
            shape = tuple(features[level].shape)
            if len(shape) != 3 or shape[0] != proprio.shape[0] or shape[2] != width:
                raise ValueError(
                    f"{kind}[{level!r}] must be ({proprio.shape[0]}, tokens, {width}), got {shape}"
                )
    return Context(
        vision={level: vision[level] for level in config.levels},
        latents={level: latents[level] for level in config.levels},
        proprio=proprio,
    )
