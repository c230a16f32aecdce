"""Scripted experts for LIBERO's tasks.

They read object poses, collision surfaces and the task's goal, and act through ordinary actions of seven
numbers. `world`, `geometry` and `grasps` describe the scene; `motion`, `pick_place`, `insert` and
`articulated` move the arm; `goals` decides which motion is next. `LiberoExpert` runs the motions action by
action.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.libero.expert.geometry import pointing_down
from rdvla.simulation.libero.expert.goals import solve
from rdvla.simulation.libero.expert.motion import Action, Arm, Motion
from rdvla.simulation.libero.expert.world import World

if TYPE_CHECKING:
    from rdvla.simulation.libero.environment import LiberoEnv


class LiberoExpert:
    """Solves an episode of a task; make another for each episode.

    It starts with the scene of the first `action` and holds still once the goal is achieved or given up.

    Args:
        task: the task's name; the goal itself is read from the environment.
        seed: determines the start offset.
        start_offset: largest movement in metres along each axis with which the episode begins, drawn at
            random, so demonstrations start from different poses. 0 begins with the task itself.
    """

    def __init__(self, task: str, *, seed: int = 0, start_offset: float = 0.0) -> None:
        self.task = task
        self._generator = np.random.default_rng(seed)
        self._start_offset = start_offset
        self._arm: Arm | None = None
        self._program: Motion | None = None

    def action(self, env: LiberoEnv) -> NDArray[np.float32]:
        """Return the expert's action (7,) in [-1, 1] for the present state of `env`."""
        if self._arm is None or self._program is None:
            self._arm = Arm(World(env))
            self._program = self._episode(self._arm)
        action: Action | None = next(self._program, None)
        return self._arm.rest() if action is None else action

    def _episode(self, arm: Arm) -> Motion:
        arm.rotation = pointing_down(0.0)
        if self._start_offset > 0:
            offset = self._generator.uniform(-self._start_offset, self._start_offset, 3)
            yield from arm.move(arm.world.hand[0] + offset, tolerance=0.015, limit=10)
        return (yield from solve(arm))


__all__ = ["LiberoExpert"]
