"""What places tensors and chooses the precision of a run."""

from __future__ import annotations

from accelerate import Accelerator  # type: ignore[import-untyped, unused-ignore]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped, unused-ignore]

from rdvla.errors import ConfigError
from rdvla.training.config import TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator of a run's `device` and `mixed_precision`.

    Raises:
        ConfigError: the run was started in several processes.
    """
    # Accelerate keeps its device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    if accelerator.num_processes > 1:
        raise ConfigError("A run trains in one process; start it without a multi-process launcher.")
    return accelerator
