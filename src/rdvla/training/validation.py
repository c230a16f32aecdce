"""The loss on held-out episodes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rdvla.policy import RDVLAPolicy
from rdvla.training.batches import BatchSource
from rdvla.training.errors import NonFiniteLossError
from rdvla.training.objectives import Objective, Score
from rdvla.training.sampler import step_generator

VALIDATION_STREAM = 2**63  # no run has that many steps, so validation shares no draws with training


def evenly_spread(rows: Tensor, *, at_most: int) -> Tensor:
    """Return up to `at_most` of `rows`, evenly spread over them."""
    if len(rows) <= at_most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, at_most).round().long()]


@torch.no_grad()
def validate(
    policy: RDVLAPolicy,
    objective: Objective,
    source: BatchSource,
    *,
    rows: Tensor,
    batch_size: int,
    seed: int,
) -> dict[str, float]:
    """Return the objective's figures, averaged over `rows`; the same draws each time, so that steps compare.

    Args:
        rows: (N,) dataset rows of held-out episodes, N >= 1.
        batch_size: samples at once.
        seed: of the run.

    Raises:
        NonFiniteLossError: a figure is NaN or infinite.
    """
    generator = step_generator(seed, VALIDATION_STREAM)
    was_training = policy.training
    policy.eval()
    try:
        scores = [
            objective.scores(policy, source.batch(part), generator=generator)
            for part in torch.split(rows, batch_size)
        ]
    finally:
        policy.train(was_training)
    figures = {name: _mean([score[name] for score in scores]) for name in scores[0]}
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"The validation figure {name} is {value}: the averaged weights have diverged."
            )
    return figures


def _mean(scores: list[Score]) -> float:
    total = sum(float(score.total) for score in scores)
    count = sum(float(score.count) for score in scores)
    return total / max(count, 1.0)
