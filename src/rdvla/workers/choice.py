"""The option `workers`: how many there are, as processes on this machine or on a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rdvla.errors import ConfigError, optional
from rdvla.workers.processes import LocalProcesses
from rdvla.workers.transport import Transport

AUTO = "auto"  # the cluster that this machine belongs to
_FORM = re.compile(r"ray(:(?P<count>0*[1-9][0-9]*))?")


@dataclass(frozen=True)
class WorkerChoice:
    """What `parse_workers` read."""

    count: int | None  # None: as many as the cluster has processors
    ray: str | None = None  # the cluster's address; None: processes on this machine

    @contextmanager
    def transport(self) -> Iterator[tuple[Transport, int]]:
        """Connect to the cluster, if there is one, and leave it at the end of the `with` block.

        Yields what starts workers, and how many of them there shall be.

        Raises:
            ConfigError: there is no cluster, or no processor in it.
            MissingExtraError: Ray is not installed.
        """
        if self.ray is None:
            assert self.count is not None
            yield LocalProcesses(), self.count
            return
        with optional("ray"):
            import ray  # noqa: F401

        from rdvla.workers.cluster import CLUSTER, processors
        from rdvla.workers.ray import RayWorkers

        CLUSTER.enter(self.ray)
        try:
            yield RayWorkers(), self.count or processors()
        finally:
            CLUSTER.leave()


def parse_workers(value: int | str, *, ray: str = AUTO) -> WorkerChoice:
    """Read the option `workers`: a number, ``ray`` or ``ray:16``.

    Args:
        value: the option.
        ray: the option of that name: ``auto``, ``local`` or ``HOST:PORT``.

    Raises:
        ConfigError: it is none of these, or less than 1, or `ray` is given without need.
    """
    text = str(value).strip()
    if text.isascii() and text.isdigit():
        if int(text) < 1:
            raise ConfigError(f"workers must be at least 1, got {value}")
        if ray != AUTO:
            raise ConfigError(f"ray names a cluster ({ray}): give --workers ray too, or leave it out")
        return WorkerChoice(int(text))
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"workers must be a number from 1 on, ray, or ray:16 for as many on a Ray cluster, got {value!r}"
        )
    return WorkerChoice(None if found["count"] is None else int(found["count"]), ray)
