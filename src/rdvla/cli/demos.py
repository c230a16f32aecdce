"""`rdvla demos`."""

from __future__ import annotations

from rdvla.simulation.demonstrations import DemonstrationConfig


def run(config: DemonstrationConfig) -> None:
    """Record demonstrations of scripted experts in a simulator as a LeRobot v3.0 dataset."""
    from rdvla.simulation.demonstrations import generate

    generate(config)
