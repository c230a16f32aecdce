"""The real inspect-robots runs its own toy task with our policy, in the Python that a variable names.

`RDVLA_INSPECT_ROBOTS_PYTHON` is that of an environment with inspect-robots and packages/rdvla-peers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.peers import python_of, reach_server, run_tool

MAIN = "import sys; from inspect_robots.cli import main; sys.exit(main())"


@pytest.mark.slow
def test_inspect_robots_finds_the_policy_by_its_entry_point_and_reaches_the_cube(tmp_path: Path):
    python = python_of("RDVLA_INSPECT_ROBOTS_PYTHON")
    with reach_server() as (address, policy):
        run_tool(
            [
                python, "-c", MAIN, "run", "--task", "cubepick-reach", "--embodiment", "cubepick",
                "--policy", "rdvla", "-P", f"server={address}", "-P", "cameras=camera=top",
                "-P", "state=eef_pos,cube_pos", "-P", "control_mode=eef_delta_pos", "-P", "frame=world",
                "--no-prompt", "--no-rerun", "--log-dir", "logs", "--seed", "1",
            ],
            cwd=tmp_path,
        )  # fmt: skip
    (path,) = (tmp_path / "logs").glob("*.json")
    log = json.loads(path.read_text())
    assert log["status"] == "success"
    assert log["results"]["metrics"]["success_at_end"] == 1.0
    asked = policy.asked[1:]  # after the query that warms it up
    assert len(asked) > 3
    for query in asked:
        assert query.observation.instruction
        colours = {tuple(colour) for colour in query.observation.images["camera"].reshape(-1, 3).tolist()}
        assert (0, 200, 0) in colours or (200, 0, 0) in colours  # the cube, or the hand on top of it
        assert np.all(query.observation.state[2:] >= 0.6)  # where that world puts its cube
