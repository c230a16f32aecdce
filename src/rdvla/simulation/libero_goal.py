"""What a LIBERO task is about: the things its goal names, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Condition:
    """One of the conditions that make up a goal.

    Attributes:
        predicate: "on", "in", "open", "close", "turnon" or "turnoff".
        subject: what is moved: an object, a region of a fixture, or a fixture.
        target: where it belongs; the subject itself where the predicate has no second argument.
    """

    predicate: str
    subject: str
    target: str


def read_goal(problem: Any) -> list[Condition]:
    """Return the goal's conditions in the order of the task's file, those that close something last."""
    conditions = []
    for entry in problem.parsed_problem["goal_state"]:
        predicate, subject, *rest = (str(part) for part in entry)
        conditions.append(Condition(predicate.lower(), subject, rest[0] if rest else subject))
    return sorted(conditions, key=lambda condition: condition.predicate == "close")


def is_met(problem: Any, condition: Condition) -> bool:
    """Whether the condition holds now, by the benchmark's own predicates."""
    arguments = [condition.subject]
    if condition.target != condition.subject:
        arguments.append(condition.target)
    return bool(problem._eval_predicate([condition.predicate, *arguments]))


class PointsOfInterest:
    """Where the first two conditions' subjects and targets are: four points of the scene.

    A target of an open or close condition is the region, its subject the part to pull or push. With one
    condition, the second pair is the part that opens its target, or else the first pair again.
    """

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        self.conditions = read_goal(problem)[:2]
        self._moving = {
            name: _moving_part(problem, name)
            for condition in self.conditions
            for name in (condition.subject, condition.target)
        }

    def positions(self) -> Vector:
        """Return (4, 3) metres: subject, target, second subject, second target."""
        pairs = [self._pair(condition) for condition in self.conditions]
        if len(pairs) == 1:
            subject, target = pairs[0]
            handle = self._moving[self.conditions[0].target]
            pairs.append((subject if handle is None else self._geom(handle), target))
        return np.array([point for pair in pairs for point in pair])

    def directions(self) -> Vector:
        """Return (2, 2): where the subjects' own x axes point in the horizontal plane, not normalised."""
        found = [self._axis(condition.subject) for condition in self.conditions]
        return np.array([found[0], found[-1]])

    def met(self) -> Vector:
        """Return (2,): 1 where a condition holds; with one condition, it twice."""
        found = [float(is_met(self._problem, condition)) for condition in self.conditions]
        return np.array([found[0], found[-1]])

    def _pair(self, condition: Condition) -> tuple[Vector, Vector]:
        target = self._place(condition.target)
        handle = self._moving[condition.subject]
        if condition.predicate in ("on", "in") or handle is None:
            return self._place(condition.subject), target
        return self._geom(handle), target

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


def _moving_part(problem: Any, name: str) -> int | None:
    """The handle: the geom of a drawer that is furthest out, or of a door or knob furthest from its axis.

    None for what does not move.
    Free objects have a joint too, but nothing in them moves against the rest.
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
