"""What `rdvla demos` says when it is done."""

from __future__ import annotations

from pathlib import Path

from rdvla.cli.demos import describe
from rdvla.simulation.demonstrations.generation import DemonstrationReport
from rdvla.simulation.demonstrations.ledger import TaskReport


def test_demos_end_with_what_was_written_and_what_comes_next():
    tasks = (TaskReport("push-v3", 3, 1), TaskReport("reach-v3", 3, 0))
    written, following = describe(DemonstrationReport(Path("my data"), tasks, 1.0)).splitlines()
    assert written == "my data: 6 episodes of 2 tasks (1 failed attempt left out), in LeRobot's format v3.0"
    assert following == "next: rdvla train --dataset 'my data'"
