"""`<run>/policy`: the averaged weights as a whole policy, from the first validation on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import rdvla
from rdvla.config import encode_config
from rdvla.data import EpisodeDataset
from rdvla.data.locate import hub_ids
from rdvla.errors import RDVLAError
from rdvla.files import new_folder, read_object
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.policy.files import WEIGHTS_FILE
from rdvla.training.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from rdvla.training.config import TrainConfig
from rdvla.training.optimization import TrainingState
from rdvla.training.sharding import whole_weights


class PolicyExport:
    """Writes and replaces the policy of one run; at every moment the folder holds a whole one, or none.

    Args:
        policy: the run's.
        folder: of the exported policy, for `RDVLAPolicy.from_pretrained`.
        chosen: which weights it gets: `best`, of the lowest validation loss, or `last`.
        provenance: what training.json says about the run, next to the step, its validation and versions.
    """

    def __init__(
        self, policy: RDVLAPolicy, folder: Path, *, chosen: str, provenance: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.chosen = chosen
        self._policy = policy
        self._provenance = provenance

    def follow(self, state: TrainingState, *, loss: float | None, improved: bool, writes: bool) -> None:
        """Export after a validation, if its weights are the ones to have; all ranks call this alike.

        Args:
            state: of the run.
            loss: of the validation, in normalised units; None without held-out episodes.
            improved: whether it is the lowest so far.
            writes: whether this rank writes the files.
        """
        if improved or self.chosen == "last":
            self._write(state, validation_loss=loss, writes=writes)

    def settle(self, state: TrainingState, *, store: CheckpointStore, latest: Checkpoint, steps: int) -> None:
        """Export what a kill, or another choice of weights, left undone.

        Args:
            state: that `latest` was restored to, and is again afterwards.
            store: of the run's checkpoints.
            latest: the checkpoint that the run goes on from.
            steps: updates of the whole run.

        Raises:
            CheckpointError: the checkpoint of the best validation is damaged, and there is no policy of it.
        """
        best = latest.best
        if self.chosen == "best":
            wanted = None if best is None else best.step
        else:
            wanted = latest.step if latest.step == steps else None
        exported = self.step()
        if wanted is None or exported == wanted:
            return
        if exported is not None and exported > latest.step:
            return  # of a checkpoint that was damaged since; the best one before it may be pruned
        if wanted != latest.step:
            try:
                state.restore(store.load(store.path(wanted)))
            except CheckpointError as error:
                raise CheckpointError(
                    f"The policy of the best validation, of step {wanted}, is lost: {error}. Give the last "
                    "weights instead by checkpoints.policy=last."
                ) from error
        self._write(state, validation_loss=best.loss if best is not None and best.step == wanted else None)
        state.restore(latest)

    def step(self) -> int | None:
        """Return how many updates the exported policy had; None if there is no whole one."""
        try:
            steps = read_object(self.folder / TRAINING).get("steps")
        except RDVLAError:
            return None
        return steps if isinstance(steps, int) and (self.folder / WEIGHTS_FILE).is_file() else None

    def _write(self, state: TrainingState, *, validation_loss: float | None, writes: bool = True) -> None:
        record = {
            "steps": state.step,
            "chosen": self.chosen,
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
        with state.averaged(), whole_weights(self._policy):
            if writes:
                with new_folder(self.folder, replace=True) as temporary:
                    self._policy.save_pretrained(temporary)


def provenance_of(config: TrainConfig, dataset: EpisodeDataset) -> dict[str, Any]:
    """Return what training.json says about a run: its data, instructions and options."""
    return {
        "dataset": {
            "root": config.dataset,
            "on_hub": hub_ids(config.dataset),
            "fingerprint": dataset.fingerprint(),
        },
        "notes": dataset.notes,
        "instructions": list(dataset.tasks),
        "config": encode_config(config),
    }
