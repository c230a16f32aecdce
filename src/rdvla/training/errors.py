"""What can stop a training run."""

from __future__ import annotations

from rdvla.errors import RDVLAError


class CheckpointError(RDVLAError):
    """A checkpoint is missing, damaged, or belongs to another model; the message names its folder."""


class NonFiniteLossError(RDVLAError):
    """The loss or its gradient became NaN or infinite; the weights were not updated with it.

    The message names the step, the depth, the dataset rows of the batch with their episodes, and the last
    checkpoint.
    """
