"""The goal of a LIBERO task: its conditions, the things that they name, and where these are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# A condition to achieve, such as ("on", "akita_black_bowl_1", "plate_1").
Goal = tuple[str, ...]


def read_goals(problem: Any) -> list[Goal]:
    """Return the conditions that make up a task's goal, in the order of its file: predicate, then names."""
    goals = problem.parsed_problem["goal_state"]
    return [(str(predicate).lower(), *map(str, names)) for predicate, *names in goals]


def holds(problem: Any, goal: Goal) -> bool:
    """Whether a condition is true now, by the benchmark's own predicates."""
    return bool(problem._eval_predicate(list(goal)))


class PointsOfInterest:
    """Where the first two conditions' subjects and targets are: four points of the scene.

    A condition names its subject first and its target last; conditions that close something come last. For
    open and close, the target is the region and the subject is the handle to pull or push. With a single
    condition, the second pair is the handle that opens its target, or else the first pair.
    """

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        goals = sorted(read_goals(problem), key=lambda goal: goal[0] == "close")
        self._goals = goals[:2]
        self._moving = {name: _handle(problem, name) for goal in self._goals for name in goal[1:]}

    def positions(self) -> Vector:
        """Return (4, 3) metres: subject, target, second subject, second target."""
        pairs = [self._pair(goal) for goal in self._goals]
        if len(pairs) == 1:
            subject, target = pairs[0]
            handle = self._moving[self._goals[0][-1]]
            pairs.append((subject if handle is None else self._geom(handle), target))
        return np.array([point for pair in pairs for point in pair])

    def directions(self) -> Vector:
        """Return (2, 2): where the subjects' own x axes point in the horizontal plane, not normalised."""
        found = [self._axis(goal[1]) for goal in self._goals]
        return np.array([found[0], found[-1]])

    def met(self) -> Vector:
        """Return (2,): 1 if a condition holds; a single condition appears twice."""
        found = [float(holds(self._problem, goal)) for goal in self._goals]
        return np.array([found[0], found[-1]])

    def _pair(self, goal: Goal) -> tuple[Vector, Vector]:
        predicate, subject, target = goal[0], goal[1], goal[-1]
        handle = self._moving[subject]
        if predicate in ("on", "in") or handle is None:
            return self._place(subject), self._place(target)
        return self._geom(handle), self._place(target)

    def _place(self, name: str) -> Vector:
        problem = self._problem
        if name in problem.object_sites_dict:
            return np.array(problem.sim.data.get_site_xpos(name))
        return np.array(problem.sim.data.body_xpos[problem.obj_body_id[name]])

    def _geom(self, geom: int) -> Vector:
        return np.array(self._problem.sim.data.geom_xpos[geom])

    def _axis(self, name: str) -> Vector:
        problem = self._problem
        if name in problem.object_sites_dict:
            return np.array(problem.sim.data.get_site_xmat(name)).reshape(3, 3)[:2, 0]
        return np.array(problem.sim.data.body_xmat[problem.obj_body_id[name]]).reshape(3, 3)[:2, 0]


def _handle(problem: Any, name: str) -> int | None:
    """The geom of a drawer that is furthest out, or of a door or knob furthest from its axis.

    None for things that do not move. Free objects have a joint too, but nothing in them moves against the
    rest.
    """
    known = problem.object_sites_dict.get(name) or problem.fixtures_dict.get(name)
    joints = list(getattr(known, "joints", None) or [])
    if not joints:
        return None
    import mujoco

    model, data = problem.sim.model._model, problem.sim.data._data
    joint = model.joint(joints[0]).id
    body = model.jnt_bodyid[joint]
    geoms = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] == body]
    if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE:
        low, high = model.jnt_range[joint]
        opening = data.xaxis[joint] * (1.0 if abs(high) > abs(low) else -1.0)
        return max(geoms, key=lambda geom: float(data.geom_xpos[geom] @ opening))
    return max(geoms, key=lambda geom: float(np.linalg.norm(data.geom_xpos[geom] - data.xanchor[joint])))
