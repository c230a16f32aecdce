"""Options that change how fast a run trains and how much memory it takes, and nothing that it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rdvla.errors import ConfigError
from rdvla.training.ranges import not_negative, one_of, positive


@dataclass(frozen=True)
class ComputeConfig:
    """How an update is computed: in shares of its batch, with less memory, by compiled code."""

    processes: int = 1  # that train together, one per accelerator; a launcher's number counts instead
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"  # fsdp: weights are shared out too; auto: ddp
    accumulation_steps: int = 1  # an update adds up the gradients of so many smaller batches
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them: less memory
    compile: bool = False  # compile the blocks of the head; the first update takes a minute longer
    peak_tflops: float = 0.0  # 10^12 operations per second of a device, for the log; 0: as known by its name

    def __post_init__(self) -> None:
        one_of("compute.strategy", self.strategy, ("auto", "ddp", "fsdp"))
        positive("compute", processes=self.processes, accumulation_steps=self.accumulation_steps)
        not_negative("compute", peak_tflops=self.peak_tflops)

    def shares_weights(self, *, processes: int) -> bool:
        """Return whether each of some processes keeps a share of the weights alone."""
        return self.strategy == "fsdp" and processes > 1

    def check_batch_size(self, batch_size: int, *, processes: int) -> None:
        """Check that every process has a sample in every accumulation step.

        Raises:
            ConfigError: there are fewer samples.
        """
        if batch_size < processes * self.accumulation_steps:
            raise ConfigError(
                f"batch_size is {batch_size}, the samples of one update over all processes: fewer than "
                f"{processes} processes x compute.accumulation_steps={self.accumulation_steps}. Raise it, or "
                "take fewer of the two."
            )
