"""The processes that train one policy together, called ranks: what each computes, and what they agree on.

Every rank does the same updates. Gradients are exchanged by what Accelerate wraps the policy in; whatever
else the ranks tell each other goes through a group of its own over TCP, which notices a rank that is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from rdvla.config import encode_config
from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import os_error_sentence
from rdvla.policy.batch import Share
from rdvla.training.batches import share_out
from rdvla.training.config import TrainConfig
from rdvla.training.rank_process import LostRankError
from rdvla.training.run_directory import differences

T = TypeVar("T")
# Options that each machine may choose for itself; the window of samples may follow from `data.cache_gb`.
OWN_OPTIONS = (
    "device",
    "threads",
    "data.cache_dir",
    "data.memory_limit_gb",
    "data.stream_dir",
)
PATIENCE = timedelta(days=7)  # of ranks that wait for one that fills a cache or writes a checkpoint


class OtherRankError(RDVLAError):
    """Another process of the run failed; the message says which one, and why."""


class Ranks:
    """The ranks of a run, seen from this one; a run in one process has one.

    Args:
        accelerator: of the run; it has connected the processes.

    Attributes:
        number: of this rank, from 0; rank 0 alone writes the run's files.
        count: of all.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.number: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.number == 0

    # --- who computes what ---

    def shares(self, batch_size: int, *, steps: int = 1) -> list[Share | None]:
        """Return what this rank computes of a batch, one after the other; None is all of it.

        Args:
            batch_size: of all ranks together.
            steps: accumulation steps.
        """
        if self.count * steps == 1:
            return [None]
        first, parts = self.number * steps, share_out(batch_size, parts=self.count * steps)
        return [share for share in parts[first : first + steps] if share.size > 0]

    # --- what they tell each other ---

    @contextmanager
    def together(self) -> Iterator[None]:
        """End a `with` block on all ranks, or fail on all; the block itself tells other ranks nothing.

        Raises:
            OtherRankError: another rank failed in its block.
        """
        try:
            yield
        except Exception as error:
            with suppress(LostRankError):
                self.gather(_said(error))
            raise
        for number, problem in enumerate(self.gather(None)):
            if problem is not None:
                raise OtherRankError(f"process {number} of the run failed: {problem}")

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order.

        Raises:
            LostRankError: a rank is gone.
        """
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self.in_contact():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def from_first(self, act: Callable[[], T]) -> T:
        """Return on all ranks what rank 0 gets by `act`.

        Raises:
            OtherRankError: it failed there.
        """
        found: T | None = None
        with self.together():
            if self.is_first:
                found = act()
        return self.gather(found)[0]  # type: ignore[return-value]  # rank 0 has it

    def check_same(self, name: str, value: object) -> None:
        """Check that all ranks have the same, such as the fingerprint of a dataset.

        Raises:
            ConfigError: they have not; the message names the first rank that differs.
        """
        values = self.gather(value)
        for number, other in enumerate(values):
            if other != values[0]:
                raise ConfigError(
                    f"process {number} of the run has another {name} ({other}) than process 0 ({values[0]}): "
                    "all machines must see the same run directory and the same data."
                )

    def check_options(self, config: TrainConfig) -> None:
        """Check that all ranks were given the same options, but for `OWN_OPTIONS`.

        Others would train on other samples, or wait for each other for ever.

        Raises:
            ConfigError: they were not; the message names the options of the first rank that differs.
        """
        first, *others = self.gather(encode_config(config))
        for number, other in enumerate(others, start=1):
            if differing := differences(first, other, except_for=OWN_OPTIONS.__contains__):
                shown = "; ".join(
                    f"{name} is {own!r}, there {old!r}" for name, (old, own) in differing.items()
                )
                raise ConfigError(
                    f"process {number} of the run has other options than process 0: {shown}. Start all "
                    "with the same command."
                )

    def any(self, *, wish: bool) -> bool:
        """Return whether any rank has a wish.

        Raises:
            LostRankError: a rank is gone.
        """
        if self.count == 1:
            return wish
        number = torch.tensor(int(wish))
        with self.in_contact():
            dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self._group)
        return bool(number)

    def add_up(self, figures: Tensor) -> Tensor:
        """Return the sum of all ranks' figures, (n,).

        Raises:
            LostRankError: a rank is gone.
        """
        if self.count == 1:
            return figures
        total = figures.detach().float().cpu()
        with self.in_contact():
            dist.all_reduce(total, group=self._group)
        return total.to(figures.device)

    @contextmanager
    def in_contact(self) -> Iterator[None]:
        """Say in a sentence that another rank is gone, if what exchanges gradients or values fails by it."""
        try:
            yield
        except RuntimeError as error:
            if self.count > 1 and _is_of_connection(error):
                raise LostRankError(
                    f"process {self.number} of the run lost its connection to another process, which has "
                    "ended or cannot be reached"
                ) from error
            raise


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return os_error_sentence(error)
    return str(error) if isinstance(error, RDVLAError) else f"{type(error).__name__}: {error}"


def _is_of_connection(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "NCCL", "Connection closed by peer", "Connection reset")
    )
