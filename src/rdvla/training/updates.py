"""Figures of updates, and what is said of one that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rdvla.data import EpisodeDataset
from rdvla.training.batches import Batch, non_finite_rows
from rdvla.training.sampler import Draw


@dataclass(frozen=True)
class Update:
    """Figures of one update."""

    depth: int  # r, iterations
    grad_norm: float  # before clipping
    learning_rate: float
    seconds: float  # it took
    scalars: dict[str, float]  # of the objective; `loss` is one


def averaged(window: Sequence[Update]) -> dict[str, float]:
    """What is logged of the updates since the last line: means, and the last learning rate."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(window)

    scalars = {name: mean([update.scalars[name] for update in window]) for name in window[-1].scalars}
    return scalars | {
        "depth": mean([update.depth for update in window]),
        "grad_norm": mean([update.grad_norm for update in window]),
        "learning_rate": window[-1].learning_rate,
        "ms_per_step": 1000 * mean([update.seconds for update in window]),
    }


def describe_failure(
    draw: Draw, batch: Batch, dataset: EpisodeDataset, *, loss: float, grad_norm: float, latest: Path | None
) -> str:
    """Say what is known of an update whose loss or gradient is not finite.

    Args:
        draw: what chance decided about it.
        batch: its samples.
        dataset: where they come from.
        loss: of the update.
        grad_norm: norm of its gradient.
        latest: the last checkpoint, if there is one.
    """
    rows = draw.rows.tolist()
    episodes = sorted(set(dataset.episode_of(rows).tolist()))
    suspects = non_finite_rows(batch)
    return (
        f"The loss is {loss} and the norm of its gradient {grad_norm} at step {draw.step + 1} "
        f"(depth {draw.depth}); the weights were not updated with it.\n"
        f"Batch: dataset rows {rows} of episodes {episodes}; "
        f"{'; '.join(suspects) or 'all of its inputs are finite'}.\n"
        f"Last good checkpoint: {latest or 'none yet'}. "
        "Look at those rows, or start again with a lower optimizer.learning_rate."
    )
