"""Demonstrations killed at any event are finished by the same command, and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("kind", "every", "least"),
    [
        ("assembly", 5, 10),
        pytest.param("assembly", 1, 50, marks=pytest.mark.slow),
        pytest.param("recording", 3, 20, marks=pytest.mark.slow),
    ],
)
def test_the_same_command_finishes_what_was_killed(tmp_path: Path, kind: str, every: int, least: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_demos", str(tmp_path), kind, str(every)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["killed"]) >= least
    assert found["different"] == found["failed"] == [], done.stderr
