"""Other tools' environments, named by variables, and a served policy that solves their toy worlds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdvla.policy.config import RobotConfig
from rdvla.serving import Answer, PolicyFacts, Query
from tests.support.serving import DoublePolicy, make_facts, open_server

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "packages" / name / "src" for name in ("rdvla-client", "rdvla-peers")]
LIMIT = 180  # seconds after which a tool is stopped
STEP = 0.1  # the longest in CubePick's units


def reach_facts() -> PolicyFacts:
    return make_facts(
        name="reach",
        cameras=("camera",),
        size=32,
        state_dim=4,
        action_dim=2,
        execution="fixed:3",
        robot=RobotConfig(fps=10.0, action_names=("dx", "dy")),
    )


@dataclass
class ReachPolicy(DoublePolicy):
    """Walks straight to a cube. The proprioception is the hand's position and then the cube's, in a plane."""

    facts: PolicyFacts = field(default_factory=reach_facts)

    async def ask(self, query: Query) -> Answer:
        answer = await super().ask(query)
        hand, cube = np.split(np.asarray(query.observation.state, dtype=np.float64), 2)
        actions = []
        for _ in range(self.facts.chunk_size):
            way = cube - hand
            actions.append(way * min(1.0, STEP / max(float(np.linalg.norm(way)), 1e-9)))
            hand = hand + actions[-1]
        moved = replace(answer.prediction, actions=np.asarray(actions, dtype=np.float32))
        return replace(answer, prediction=moved)


@contextmanager
def reach_server() -> Iterator[tuple[str, ReachPolicy]]:
    """Serve a `ReachPolicy`; yield the address and the policy, which keeps what it was asked."""
    policy = ReachPolicy()
    with open_server(policy) as server:
        yield server.address, policy


def python_of(variable: str) -> str:
    """Return the interpreter of an environment with another tool; skip the test if none is named."""
    found = os.environ.get(variable)
    if not found:
        pytest.skip(f"{variable} names no Python; CONTRIBUTING.md says how to make one")
    return found


def tool_environment(**more: str) -> dict[str, str]:
    """Environment variables with which a tool finds the packages of this checkout."""
    paths = [*map(str, PACKAGES), str(ROOT / "tests" / "peers")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1"} | more


def run_tool(command: Sequence[Any], *, cwd: Path) -> str:
    """Run a command in an empty folder; return what it wrote, and fail with that if it fails."""
    finished = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=tool_environment(), capture_output=True, text=True, timeout=LIMIT, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    written = finished.stdout + finished.stderr
    assert finished.returncode == 0, written
    return written
