"""`rdvla demos`."""

from __future__ import annotations

from rdvla.errors import optional
from rdvla.files import check_writable
from rdvla.simulation.demonstrations.config import DemonstrationConfig
from rdvla.simulation.registry import simulator_extra


def run(config: DemonstrationConfig) -> None:
    """Record demonstrations of scripted experts in a simulator as a LeRobot v3.0 dataset."""
    check_writable(config.output, option="output", folder=True)
    with optional(f"data,{simulator_extra(config.env)}"):
        from rdvla.simulation.demonstrations import generate

    generate(config)
