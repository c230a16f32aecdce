"""`<run>/policy`: the averaged weights as a whole policy, from the first validation on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import rdvla
from rdvla.errors import RDVLAError
from rdvla.files import new_folder, read_object
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.policy.files import WEIGHTS_FILE
from rdvla.training.optimization import TrainingState


class PolicyExport:
    """Writes and replaces the policy of one run; at every moment the folder holds a whole one, or none.

    Args:
        policy: the run's.
        folder: of the exported policy, for `RDVLAPolicy.from_pretrained`.
        provenance: what training.json says about the run, next to the step, its validation and versions.
    """

    def __init__(self, policy: RDVLAPolicy, folder: Path, *, provenance: Mapping[str, Any]) -> None:
        self.folder = folder
        self._policy = policy
        self._provenance = provenance

    def write(self, state: TrainingState, *, chosen: str, validation_loss: float | None) -> None:
        """Export the averaged weights.

        Args:
            state: of the run; its average goes into the policy.
            chosen: why these: `best` or `last`.
            validation_loss: of these weights, in normalised units; None if they were not validated.
        """
        record = {
            "steps": state.step,
            "chosen": chosen,
            "validation_loss": validation_loss,
            "training_seconds": round(state.seconds, 1),
            **self._provenance,
            "versions": {
                "rdvla": rdvla.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        self._policy.records = {TRAINING: record}
        with state.ema.applied(), new_folder(self.folder, replace=True) as temporary:
            self._policy.save_pretrained(temporary)

    def step(self) -> int | None:
        """Return how many updates the exported policy had; None if there is no whole one."""
        try:
            steps = read_object(self.folder / TRAINING).get("steps")
        except RDVLAError:
            return None
        return steps if isinstance(steps, int) and (self.folder / WEIGHTS_FILE).is_file() else None
