"""One episode: reset, ask an actor what to do, run it, until success or the limit.

Evaluations, demonstrations and benchmarks all call `run_episode`. They differ in the actor (a policy, an
expert under noise) and in the recorders that watch (a video, a dataset's frames).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rdvla.control import Cause
from rdvla.errors import RDVLAError

Actions = NDArray[np.float32]
Images = dict[str, NDArray[np.uint8]]
TaskKey = tuple[str, str]  # environment and task: what a simulator is built for


class Environment(Protocol):
    """What an episode needs of a simulated task."""

    instruction: str
    control_hz: float

    def reset(self, *, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; the observation holds "state" (S,)."""
        ...

    def step(self, action: Actions) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Run one action (A,); info holds "success"."""
        ...

    def render_cameras(self) -> Images:
        """Return the present camera images (H, W, 3)."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


EnvironmentT = TypeVar("EnvironmentT", bound=Environment)
MakeEnvironment = Callable[[str, str], EnvironmentT]  # environment's name, task -> environment; has to pickle


class TimeStep(Generic[EnvironmentT]):
    """The present of an episode, as actors and recorders see it; valid until the next step.

    Attributes:
        environment: the simulator.
        state: (S,) proprioception.
        step: environment steps so far.
        success: whether the step that led here reported success.
    """

    def __init__(
        self, environment: EnvironmentT, observation: dict[str, Any], *, step: int = 0, success: bool = False
    ) -> None:
        self.environment = environment
        self.state = np.asarray(observation["state"], dtype=np.float32)
        self.step = step
        self.success = success

    @cached_property
    def images(self) -> Images:
        """Camera images (H, W, 3), rendered at most once: rendering costs more than physics."""
        return self.environment.render_cameras()


@dataclass(frozen=True)
class Origin:
    """Who decided on some actions in an attended episode, and what the policy says to them."""

    intervention: bool  # a person drives
    cause: Cause | None  # who ended the policy's autonomy; None if it acts by itself
    policy_actions: Actions  # (n, A), what the policy wanted
    depth: int  # iterations of the policy's query
    uncertainty: float  # of that query
    help_requested: bool  # by that query's judge
    recorded_as: int | None = None  # number of the dataset's episode with these actions; None: not recorded


@dataclass(frozen=True)
class Decision:
    """What an actor wants to do before it is asked again."""

    actions: Actions  # (n, A) to execute
    intended: Actions | None = None  # (n, A) without the noise that was added; None: `actions`
    depth: int = 0  # iterations that a policy used
    origin: Origin | None = None  # None: an episode that nobody attends


class Actor(Protocol[EnvironmentT]):
    """Whoever decides: a policy, an expert, a person."""

    def act(self, now: TimeStep[EnvironmentT]) -> Decision:
        """Return the next actions, at least one."""
        ...


class Recorder(Protocol[EnvironmentT]):
    """Watches an episode."""

    def before_step(self, now: TimeStep[EnvironmentT], decision: Decision, index: int) -> None:
        """Action number `index` of the decision is about to be executed."""
        ...

    def after_step(self, now: TimeStep[EnvironmentT], *, ended: bool) -> None:
        """It has been executed; `ended` if the episode is over."""
        ...


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode went."""

    success: bool  # at any step
    steps: int
    executed: list[int]  # actions executed after each decision


def run_episode(
    environment: EnvironmentT,
    actor: Actor[EnvironmentT],
    *,
    seed: int,
    max_steps: int | None = None,
    steps_after_success: int = 0,
    recorders: Sequence[Recorder[EnvironmentT]] = (),
    goes_on: Callable[[TimeStep[EnvironmentT]], bool] | None = None,
) -> EpisodeEnd:
    """Run an episode and return how it went.

    Args:
        environment: reset here.
        actor: asked whenever its actions have run out.
        seed: of the scene.
        max_steps: steps after which it ends; None: when the environment says.
        steps_after_success: steps that are still run after the first success.
        recorders: called around every step, in order.
        goes_on: asked before every action of a decision but the first; False drops those that are left.

    Raises:
        RDVLAError: the actor gives no action.
    """
    observation, _ = environment.reset(seed=seed)
    now = TimeStep(environment, observation)
    executed: list[int] = []
    solved_at: int | None = None
    ended = False
    while not ended:
        decision = actor.act(now)
        if len(decision.actions) == 0:
            raise RDVLAError(f"{type(actor).__name__} gave no action: an actor has to give at least one")
        before = now.step
        for index, action in enumerate(decision.actions):
            if index > 0 and goes_on is not None and not goes_on(now):
                break
            for recorder in recorders:
                recorder.before_step(now, decision, index)
            observation, _, terminated, truncated, info = environment.step(action)
            now = TimeStep(environment, observation, step=now.step + 1, success=bool(info["success"]))
            if now.success and solved_at is None:
                solved_at = now.step
            solved = solved_at is not None and now.step - solved_at >= steps_after_success
            ended = terminated or truncated or solved or now.step == max_steps
            for recorder in recorders:
                recorder.after_step(now, ended=ended)
            if ended:
                break
        executed.append(now.step - before)
    return EpisodeEnd(solved_at is not None, now.step, executed)


class OpenEnvironment(Generic[EnvironmentT]):
    """The only simulator that a worker keeps open. It can take gigabytes: another task closes it first."""

    def __init__(self, make: MakeEnvironment[EnvironmentT]) -> None:
        self._make = make
        self._task_key: TaskKey | None = None
        self._environment: EnvironmentT | None = None

    def open(self, task_key: TaskKey) -> EnvironmentT:
        """Return the simulator of a task, opened if it is not open."""
        if self._environment is None or task_key != self._task_key:
            self.close()
            self._environment, self._task_key = self._make(*task_key), task_key
        return self._environment

    def close(self) -> None:
        """Close what is open."""
        if self._environment is not None:
            with suppress(Exception):  # after an exception even closing may fail
                self._environment.close()
            self._environment = None
            gc.collect()  # simulators refer to themselves in circles, and their memory is needed now
