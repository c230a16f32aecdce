"""`rdvla train`."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    """Train a policy on a LeRobot v3.0 dataset; `--resume true` goes on after an interruption."""
    from rdvla.configuration import load_config
    from rdvla.training import TrainConfig, train

    train(load_config(TrainConfig, argv, prog="rdvla train"))
