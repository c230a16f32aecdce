"""One episode: reset, ask an actor what to do, run it, until success or the limit.

Evaluations, demonstrations and benchmarks all play through `play`. They differ in the actor (a policy, an
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

Actions = NDArray[np.float32]
Images = dict[str, NDArray[np.uint8]]
Place = tuple[str, str]  # environment and task: what a simulator is built for


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
        """Return the camera images (H, W, 3) of the present moment."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


EnvironmentT = TypeVar("EnvironmentT", bound=Environment)
MakeEnvironment = Callable[[str, str], EnvironmentT]  # environment's name, task -> environment; has to pickle


class Moment(Generic[EnvironmentT]):
    """The present of an episode, as actors and recorders see it. Valid until the next step.

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
class Decision:
    """What an actor wants to do before it is asked again."""

    actions: Actions  # (n, A) to execute
    intended: Actions | None = None  # (n, A) without the noise that was added; None: `actions`
    depth: int = 0  # iterations that a policy used


class Actor(Protocol[EnvironmentT]):
    """Whoever decides: a policy, an expert, a person."""

    def act(self, moment: Moment[EnvironmentT]) -> Decision:
        """Return the next actions, at least one."""
        ...


class Recorder(Protocol[EnvironmentT]):
    """Watches an episode."""

    def before_step(self, moment: Moment[EnvironmentT], decision: Decision, index: int) -> None:
        """Action number `index` of the decision is about to be executed."""
        ...

    def after_step(self, moment: Moment[EnvironmentT], *, ended: bool) -> None:
        """It has been executed; `ended` if the episode is over."""
        ...


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode went."""

    success: bool  # at any step
    steps: int
    executed: list[int]  # actions executed after each decision


def play(
    environment: EnvironmentT,
    actor: Actor[EnvironmentT],
    *,
    seed: int,
    max_steps: int | None = None,
    steps_after_success: int = 0,
    recorders: Sequence[Recorder[EnvironmentT]] = (),
) -> EpisodeEnd:
    """Play one episode.

    Args:
        environment: reset here.
        actor: asked whenever its actions have run out.
        seed: of the scene.
        max_steps: steps after which it ends; None: when the environment says.
        steps_after_success: steps that are still run after the first success.
        recorders: called around every step, in order.
    """
    observation, _ = environment.reset(seed=seed)
    moment = Moment(environment, observation)
    executed: list[int] = []
    solved_at: int | None = None
    ended = False
    while not ended:
        decision = actor.act(moment)
        before = moment.step
        for index, action in enumerate(decision.actions):
            for recorder in recorders:
                recorder.before_step(moment, decision, index)
            observation, _, terminated, truncated, info = environment.step(action)
            moment = Moment(environment, observation, step=moment.step + 1, success=bool(info["success"]))
            if moment.success and solved_at is None:
                solved_at = moment.step
            solved = solved_at is not None and moment.step - solved_at >= steps_after_success
            ended = terminated or truncated or solved or moment.step == max_steps
            for recorder in recorders:
                recorder.after_step(moment, ended=ended)
            if ended:
                break
        executed.append(moment.step - before)
    return EpisodeEnd(solved_at is not None, moment.step, executed)


class OpenEnvironment(Generic[EnvironmentT]):
    """The one simulator that a worker keeps open. It can take gigabytes: another task closes it first."""

    def __init__(self, make: MakeEnvironment[EnvironmentT]) -> None:
        self._make = make
        self._place: Place | None = None
        self._environment: EnvironmentT | None = None

    def at(self, place: Place) -> EnvironmentT:
        """Return the simulator of a task, opened if it is not open."""
        if self._environment is None or place != self._place:
            self.close()
            self._environment, self._place = self._make(*place), place
        return self._environment

    def close(self) -> None:
        """Close what is open."""
        if self._environment is not None:
            with suppress(Exception):  # after an exception even closing may fail
                self._environment.close()
            self._environment = None
            gc.collect()  # simulators refer to themselves in circles, and their memory is needed now
