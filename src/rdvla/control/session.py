"""Keeps each robot's pending actions and last latent state between queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rdvla.control.execution import ExecutionRule, as_execution
from rdvla.control.start import WarmStart, as_start
from rdvla.errors import InputError
from rdvla.types import Array, Observation, Prediction, as_observation


class Policy(Protocol):
    """The methods of a policy that a session calls; the policy works in torch or in numpy."""

    def initial_state(self, batch_size: int, generator: Any = None) -> Array:
        """Draw S_0, (B, K, D)."""
        ...

    def predict(self, observation: Observation, *, initial_state: Array | None = None) -> Prediction:
        """Return action chunks in the robot's units."""
        ...


@dataclass
class _Robot:
    actions: list[Array] = field(default_factory=list)  # (A,) each, still to be executed
    executed: int = 0  # actions taken since the last query
    state: Array = None  # (K, D), the last query's S_k*; None before the first query


class Session:
    """The state of B robots between queries; B is 1, or the number of parallel environments.

    `act` does all of a control step. Its parts can be called one by one:

    1. `due` names the robots that need a query;
    2. `initial_state` gives the queries' S_0;
    3. `accept` takes the prediction;
    4. `next_actions` gives every robot's action, or `take` the rest of one robot's chunk.

    `reset` forgets robots whose episode begins anew.

    Args:
        execution: how many actions of a chunk are executed before the next query: a number, a rule, or its
            text.
        start: where a query's iterations start, or its name; by default from noise, as in the paper.

    Raises:
        ConfigError: there is no such rule or start.
    """

    def __init__(self, execution: int | str | ExecutionRule, start: str | WarmStart | None = None) -> None:
        self.execution = as_execution(execution)
        self.start = WarmStart() if start is None else as_start(start)
        self._robots: list[_Robot] = []

    def due(self, batch_size: int) -> list[int]:
        """Return the robots, of `batch_size` in all, that have no action left.

        Raises:
            InputError: the batch size has changed.
        """
        if not self._robots:
            self._robots = [_Robot() for _ in range(batch_size)]
        if len(self._robots) != batch_size:
            raise InputError(
                f"the batch had {len(self._robots)} samples and now has {batch_size}: reset() in between"
            )
        return [number for number, robot in enumerate(self._robots) if not robot.actions]

    def initial_state(self, robots: Sequence[int], noise: Array) -> Array:
        """Return S_0 of some robots' queries, (n, K, D); a robot's first query starts from noise.

        Args:
            robots: indices of n robots.
            noise: (n, K, D), drawn.
        """
        states = noise + 0  # a copy, of torch or numpy
        for place, number in enumerate(robots):
            robot = self._robots[number]
            if robot.state is not None:
                sample = slice(place, place + 1)
                states[sample] = self.start.start(noise[sample], robot.state[None], [robot.executed])
        return states

    def accept(self, robots: Sequence[int], prediction: Prediction) -> list[int]:
        """Take a prediction for some robots; return how many actions each will execute before its next query.

        Args:
            robots: indices of n robots.
            prediction: a batch of n.
        """
        # k* decides how many actions are executed before looking again.
        counts: list[int] = self.execution.horizon(prediction.depth).tolist()
        for number, chunk, state, count in zip(
            robots, prediction.actions, prediction.state, counts, strict=True
        ):
            self._robots[number] = _Robot(actions=list(chunk[:count]), state=state)
        return counts

    def next_actions(self) -> list[Array]:
        """Return the next action of every robot, a list of B arrays (A,).

        Raises:
            InputError: a robot has none left: it needs a query first.
        """
        waiting = [number for number, robot in enumerate(self._robots) if not robot.actions]
        if waiting:
            raise InputError(f"robot {waiting[0]} has no action left: query the policy first")
        return [self.take(number, 1)[0] for number in range(len(self._robots))]

    def act(self, policy: Policy, observation: Observation, *, generator: Any = None) -> list[Array]:
        """Return the next action of every robot, a list of B arrays (A,); query the policy if needed.

        Args:
            policy: takes the observation, and gives arrays of its own library.
            observation: a batch of B, or a single one.
            generator: source of the queries' noise.

        Raises:
            InputError: the batch has another size than before, or it is no observation.
        """
        due = self.due(as_observation(observation).batch_size)
        if due:
            start = self.initial_state(due, policy.initial_state(len(due), generator))
            self.accept(due, policy.predict(observation.select(due), initial_state=start))
        return self.next_actions()

    def take(self, robot: int, count: int | None = None) -> list[Array]:
        """Return the next `count` actions of one robot, (A,) each; all that remain if it is None."""
        state = self._robots[robot]
        count = len(state.actions) if count is None else count
        taken, state.actions = state.actions[:count], state.actions[count:]
        state.executed += len(taken)
        return taken

    def report(self, robot: int, executed: int | None = None) -> None:
        """Take how many actions of its last chunk a robot has executed that does not `take` them here.

        Args:
            robot: its index.
            executed: how many; those that the execution rule allowed if not given.
        """
        state = self._robots[robot]
        state.executed = state.executed + len(state.actions) if executed is None else executed
        state.actions = []

    def reset(self, robots: Sequence[int] | None = None) -> None:
        """Forget actions and states of some robots, or of all if not given; their episodes begin anew.

        Raises:
            InputError: there is no such robot.
        """
        if robots is None:
            self._robots = []
            return
        for number in robots:
            if not 0 <= number < len(self._robots):
                raise InputError(f"there is no robot {number}, only {len(self._robots)}")
            self._robots[number] = _Robot()
