"""Which attention a published language model was trained with, inferred from its training data.

The weights do not say whether the paper's language model saw its sequence causally or both ways. The right
setting reproduces the features that the head was trained with, and so the training loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.backbone import PrismaticBackbone
from rdvla.backbone.prismatic.config import Attention
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import Batch
from rdvla.training.samples import observe, spread_frames

KINDS: tuple[Attention, ...] = ("causal", "bidirectional")
_SEED = 0  # of the initial states, the same under both settings
_BATCH_SIZE = 4


@torch.no_grad()
def compare_attention(
    policy: RDVLAPolicy, dataset: EpisodeDataset, *, samples: int, depth: int
) -> dict[str, Tensor]:
    """Return the training loss of evenly spread samples under both kinds of attention.

    Args:
        policy: with a prismatic backbone; it is left as it was.
        dataset: of the kind that the policy was trained on.
        samples: at most so many.
        depth: iterations.

    Returns:
        Kind of attention -> (n,) mean absolute error of each sample's normalised chunk.

    Raises:
        ConfigError: the backbone is of another kind, or a number is not positive.
    """
    backbone = policy.backbone
    if not isinstance(backbone, PrismaticBackbone):
        raise ConfigError("only a prismatic backbone has a choice of attention to check")
    if samples < 1 or depth < 1:
        raise ConfigError(f"samples and depth must be at least 1, got {samples} and {depth}")
    frames = spread_frames(dataset, at_most=samples)
    before = backbone.config
    losses: dict[str, Tensor] = {kind: torch.empty(0) for kind in KINDS}
    try:
        for start in range(0, len(frames), _BATCH_SIZE):
            batch = _batch(policy, dataset, frames[start : start + _BATCH_SIZE])  # the same for both
            for kind in KINDS:
                backbone.config = replace(before, attention=kind)
                losses[kind] = torch.cat([losses[kind], _losses(policy, batch, depth=depth)])
    finally:
        backbone.config = before
    return losses


def format_comparison(losses: Mapping[str, Tensor]) -> str:
    """Write both losses, their paired difference with its standard error, and a conclusion."""
    causal, both = (losses[kind] for kind in KINDS)
    count = len(causal)
    lines = [f"{kind:<14} L1 {losses[kind].mean():.4f} (mean of {count} samples)" for kind in KINDS]
    difference = causal - both
    mean = float(difference.mean())
    error = float(difference.std()) / math.sqrt(count) if count > 1 else math.inf
    lines.append(
        f"causal - bidirectional: {mean:+.4f} +- {error:.4f} (standard error of the paired difference)"
    )
    if abs(mean) > 3 * error:
        lines.append(f"The weights fit {KINDS[0] if mean < 0 else KINDS[1]} attention.")
    else:
        lines.append("The samples do not tell them apart: take more, or other data.")
    return "\n".join(lines)


def _batch(policy: RDVLAPolicy, dataset: EpisodeDataset, frames: NDArray[np.int64]) -> Batch:
    return Batch(
        features=policy.frozen_inputs(policy.config.fits(observe(dataset, frames))),
        state=policy.normalize_state(dataset.state(frames).to(policy.device)),
        actions=policy.action_normalizer.normalize(dataset.actions(frames).to(policy.device)),
        action_is_pad=dataset.action_is_pad(frames).to(policy.device),
    )


def _losses(policy: RDVLAPolicy, batch: Batch, *, depth: int) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    predicted = policy.predict_batch(batch, stop=depth, generator=generator).actions
    exists = (~batch.action_is_pad).to(predicted).unsqueeze(-1)
    error = ((predicted - batch.actions.to(predicted)).abs() * exists).sum(dim=(1, 2))
    mean: Tensor = error / (exists.sum(dim=(1, 2)) * predicted.shape[-1])
    return mean.cpu()
