"""An update or a validation that is not finite: the error, and its message."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rdvla.data import EpisodeDataset
from rdvla.errors import RDVLAError
from rdvla.policy.batch import Batch
from rdvla.training.batches import Draw


class NonFiniteLossError(RDVLAError):
    """The loss or its gradient became NaN or infinite; the weights were not updated with it.

    The message names the step, the depth, the dataset frames of the batch with their episodes, and the last
    checkpoint.
    """


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
    frames = draw.frames.tolist()
    episodes = sorted(set(dataset.episode_of(frames).tolist()))
    suspects = non_finite_frames(batch, draw.frames)
    return (
        f"The loss is {loss} and the norm of its gradient {grad_norm} at step {draw.step + 1} "
        f"(depth {draw.depth}); the weights were not updated with it.\n"
        f"Batch: dataset frames {frames} of episodes {episodes}; "
        f"{'; '.join(suspects) or 'all of its inputs are finite'}.\n"
        f"Last good checkpoint: {latest or 'none yet'}. "
        "Check those frames, or start again with a lower optimizer.learning_rate."
    )


def non_finite_frames(batch: Batch, frames: Tensor) -> list[str]:
    """Return a sentence for each tensor of a batch that holds NaN or infinity, naming the dataset frames.

    Args:
        batch: B samples.
        frames: (B,) their dataset frames.
    """
    tensors = {"state": batch.state, "action": batch.actions, "environment state": batch.environment_state}
    tensors |= {f"input {name!r}": value for name, value in batch.features.items()}
    sentences = []
    for name, value in tensors.items():
        if value is not None and value.is_floating_point():
            bad = ~value.flatten(1).isfinite().all(dim=1).cpu()
            if bool(bad.any()):
                sentences.append(f"the {name} is not finite in frames {sorted(set(frames[bad].tolist()))}")
    return sentences
