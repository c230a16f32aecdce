"""`rdvla data features`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdvla.errors import optional
from rdvla.training.config import TrainConfig
from rdvla.workers import parse_workers


@dataclass(frozen=True)
class FeaturesConfig(TrainConfig):
    """A training run, and who computes what it caches."""

    workers: int | str = 1  # processes, each with a policy; ray, or ray:16: on a cluster, one per processor
    ray: str = "auto"  # that cluster: auto, the one this machine belongs to; HOST:PORT; local: started here

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_workers(self.workers, ray=self.ray)


def run(config: FeaturesConfig) -> None:
    """Compute what `rdvla train` with the same options would cache, ahead of it and by many workers.

    Frozen features, or decoded images for a trainable image encoder. An interrupted command goes on where it
    stopped, and trainings and further commands that fill the same cache at the same time share the work.
    """
    with optional("train"):
        from rich.console import Console

        from rdvla.training.filling import fill_cache

    print(fill_cache(config, parse_workers(config.workers, ray=config.ray), console=Console()))


def in_full(argv: Sequence[str]) -> list[str]:
    """See `rdvla.cli.train.in_full`."""
    from rdvla.cli.train import in_full as as_train

    return as_train(argv)
