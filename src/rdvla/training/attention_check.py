"""Which way a published language model attends, told from the data that it was trained on.

Whether the paper's language model saw its sequence causally or both ways cannot be read from its weights. The
right setting reproduces the features that the head was trained with, and so the training loss.
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
from rdvla.training.samples import observe, spread_rows

KINDS: tuple[Attention, ...] = ("causal", "bidirectional")
_SEED = 0  # of the initial states, which both settings share
_AT_ONCE = 4  # samples


@torch.no_grad()
def compare_attention(
    policy: RDVLAPolicy, dataset: EpisodeDataset, *, samples: int, depth: int
) -> dict[str, Tensor]:
    """Training loss of evenly spread samples under both kinds of attention.

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
    count = min(samples, len(dataset))
    rows = spread_rows(dataset, at_most=count)
    before = backbone.config
    losses: dict[str, Tensor] = {kind: torch.empty(0) for kind in KINDS}
    try:
        for start in range(0, count, _AT_ONCE):
            of_batch = rows[start : start + _AT_ONCE]
            inputs = policy.frozen_inputs(observe(dataset, of_batch))  # the same for both
            for kind in KINDS:
                backbone.config = replace(before, attention=kind)
                wrong = _losses(policy, dataset, of_batch, inputs, depth=depth)
                losses[kind] = torch.cat([losses[kind], wrong])
    finally:
        backbone.config = before
    return losses


def format_comparison(losses: Mapping[str, Tensor]) -> str:
    """Both losses, their paired difference with its standard error, and what that says."""
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


def _losses(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    rows: NDArray[np.int64],
    inputs: Mapping[str, Tensor],
    *,
    depth: int,
) -> Tensor:
    state = policy.normalize_state(dataset.state(rows).to(policy.device))
    initial = policy.initial_state(len(rows), torch.Generator().manual_seed(_SEED))
    context = policy.context_from(inputs, state)
    predicted: Tensor = policy.engine.predict(context, stop=depth, initial_state=initial).actions
    target = policy.action_normalizer.normalize(dataset.actions(rows).to(predicted))
    exists = (~dataset.action_is_pad(rows)).to(predicted).unsqueeze(-1)
    wrong = ((predicted - target).abs() * exists).sum(dim=(1, 2))
    mean: Tensor = wrong / (exists.sum(dim=(1, 2)) * predicted.shape[-1])
    return mean.cpu()
