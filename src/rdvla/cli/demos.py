"""`rdvla demos`."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    """Record demonstrations of scripted experts in a simulator as a LeRobot v3.0 dataset."""
    from rdvla.config import load_config
    from rdvla.simulation.demonstrations import DemonstrationConfig, generate

    generate(load_config(DemonstrationConfig, argv, prog="rdvla demos"))
