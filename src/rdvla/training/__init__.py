"""Training: from a dataset of demonstrations to a policy folder, resumable at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.training.checkpoints import CheckpointError
    from rdvla.training.config import TrainConfig
    from rdvla.training.non_finite import NonFiniteLossError
    from rdvla.training.trainer import Trainer, TrainResult, train
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="train")

__all__ = ["CheckpointError", "NonFiniteLossError", "TrainConfig", "TrainResult", "Trainer", "train"]
