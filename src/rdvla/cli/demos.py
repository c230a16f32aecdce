"""`rdvla demos`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rdvla.errors import optional
from rdvla.files import check_writable
from rdvla.simulation.demonstrations.config import DemonstrationConfig
from rdvla.simulation.registry import simulator_extra

if TYPE_CHECKING:
    from rdvla.simulation.demonstrations import DemonstrationReport


def run(config: DemonstrationConfig) -> None:
    """Record demonstrations of scripted experts in a simulator as a LeRobot v3.0 dataset."""
    check_writable(config.output, option="output", folder=True)
    with optional(f"data,{simulator_extra(config.env)}"):
        from rdvla.simulation.demonstrations import generate

    print(describe(generate(config)))


def describe(report: DemonstrationReport) -> str:
    """Return what was written, and what comes next."""
    episodes = sum(task.episodes for task in report.tasks)
    failed = sum(task.failed_attempts for task in report.tasks)
    return (
        f"{report.root}: {_count(episodes, 'episode')} of {_count(len(report.tasks), 'task')} "
        f"({_count(failed, 'failed attempt')} left out), in LeRobot's format v3.0\n"
        f"next: rdvla train --dataset {shlex.quote(str(report.root))}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
