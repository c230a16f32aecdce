"""Training: from a dataset of demonstrations to a policy folder, resumable at every step."""

from rdvla.training.config import TrainConfig
from rdvla.training.errors import CheckpointError, NonFiniteLossError
from rdvla.training.trainer import Trainer, TrainResult, train

__all__ = ["CheckpointError", "NonFiniteLossError", "TrainConfig", "TrainResult", "Trainer", "train"]
