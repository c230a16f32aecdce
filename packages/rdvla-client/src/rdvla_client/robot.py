"""Drives a robot: an action at each control step, whatever the network does."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rdvla_client.asking import TRANSIENT, Asker, Outcome, Policy, Question
from rdvla_client.blending import Blend
from rdvla_client.errors import NonFiniteError, ReplyTimeoutError, UnsupportedError, WireError
from rdvla_client.execution import Execution, driven_by_person
from rdvla_client.holding import Action, Hold, Holding, as_action
from rdvla_client.limits import ActionLimits
from rdvla_client.plan import Plan
from rdvla_client.timing import Timing

_LONGEST_WAIT_S = 60.0  # for a reply, if nothing else is to be done


@dataclass(frozen=True)
class Step:
    """What `RobotClient.act` returned, and why."""

    action: Action  # (A,)
    held: bool = False  # no action of the policy was there
    seam: bool = False  # a new chunk took over with this action
    clipped: tuple[int, ...] = ()  # dimensions that the limits changed
    problem: str = ""  # why there are no replies at present; empty if all is well
    reply: Mapping[str, Any] = field(default_factory=dict)  # the server's, with the chunk that runs


@dataclass(frozen=True)
class Counts:
    """What happened so far, resets included."""

    steps: int = 0  # actions returned
    queries: int = 0  # sent
    chunks: int = 0  # that took over
    held: int = 0  # steps without an action of the policy
    overrun: int = 0  # steps with an action beyond those that `execution` allows
    clipped: int = 0  # steps that the limits changed
    refused: int = 0  # chunks thrown away because they hold a value that is not finite
    late: int = 0  # chunks thrown away: of the past, or of an observation older than `max_age_s`
    failures: int = 0  # queries without a reply


class RobotClient:
    """Returns a robot's next action at each control step.

    A thread asks for the next chunk while the current one runs. The new chunk takes over as soon as it is
    there, without its actions for the steps executed meanwhile. When there is no action, the robot holds: at
    the first steps, if a reply is late, if the connection is lost, or if the policy's actions are not finite.

    Args:
        policy: the server, usually a `PolicyClient`. Closing the robot closes it.
        hold: the action while there is none of the policy: a vector (A,), such as zeros for a robot that is
            driven by velocities or changes; "last", the last action again, for one driven by absolute
            positions; or a function of the observation that returns a vector.
        execution: how many actions of a chunk to execute. ``server``: as many as the reply says;
            ``fixed:N``; ``until_next``: until the next chunk is there, asking all the time; or a rule of the
            server, such as ``binary:8,4,8``.
        prefetch: ask while a chunk runs. If not, `act` waits for every chunk, as a simulator can.
        control_hz: control steps per second; by default what the server says, else measured.
        blend: how chunks overlap; by default a new one takes over at once.
        limits: what the robot may do.
        overrun: actions beyond those of `execution` that may run while a reply is late, before a hold.
        wait_s: longest that `act` waits for a reply once it has no action left; by default 0 with `prefetch`
            and 60 without.
        max_age_s: seconds that an observation may be old when its reply arrives. An older chunk is thrown
            away, and the present observation is sent: what the robot saw then need not be there any more.
            Must be longer than the server takes; `math.inf` where nothing moves meanwhile, as in a simulator.
        options: of each query: `max_depth`, `deadline_ms`, `stop`.

    Raises:
        ClientError: the server cannot be reached, or does not understand `execution` or an option.
        ValueError: an argument does not fit the others.
    """

    def __init__(  # noqa: PLR0913 - each is a decision about one robot
        self,
        policy: Policy,
        *,
        hold: Hold,
        execution: str | int = "server",
        prefetch: bool = True,
        control_hz: float | None = None,
        blend: Blend | None = None,
        limits: ActionLimits | None = None,
        overrun: int = 0,
        wait_s: float | None = None,
        max_age_s: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        metadata = policy.metadata
        # Once and for all: asking later could wait for a connection in the middle of a control step.
        self._understood = policy.options
        self.execution = Execution.read(execution, options=self._understood)
        self._policy = policy
        self._holding = Holding(hold)
        self._prefetch = prefetch
        self._limits = limits
        self._wait_s = (0.0 if prefetch else _LONGEST_WAIT_S) if wait_s is None else wait_s
        if not max_age_s > 0:
            raise ValueError(f"max_age_s is a positive number of seconds, got {max_age_s}")
        self._max_age_s = max_age_s
        self._options = dict(options or {})
        self._action_dim: int | None = None
        self._check(metadata, overrun)
        rate = control_hz or metadata.get("control_hz")
        self._timing = Timing(float(rate) if rate else None)
        self._plan = Plan(blend, overrun=overrun)
        self._asker = Asker(policy)
        self._previous: Action | None = None  # what the robot was last told
        self._reply: Mapping[str, Any] = {}
        # Connection, position and length of the last chunk.
        self._observed: tuple[int, int, int] | None = None
        self._broken = False  # a query failed since the last chunk
        self.counts = Counts()
        self.last_step: Step | None = None

    def act(self, observation: Mapping[str, Any]) -> Action:
        """Return the action of this control step, (A,).

        Args:
            observation: as the policy's layout says; may be changed as soon as this returns.

        Raises:
            ServerError: the server cannot answer this observation.
            WireError: it cannot be sent, or the reply is no chunk of actions.
            ReplyTimeoutError: no action is known to hold with `hold="last"`, as no reply has come yet.
        """
        self._timing.step()
        seam = self._accept(self._asker.take(0.0))
        self._ask_if_due(observation)
        beyond = self._plan.remaining == 0
        planned = self._plan.next()
        beyond = beyond and planned is not None
        if planned is None and self._wait_s > 0:
            seam = self._await(observation, self._wait_s)
            planned = self._plan.next()
        hold = self._holding.action(observation, self._previous) if planned is None else None
        if planned is None and hold is None:
            seam = self._await(observation, _LONGEST_WAIT_S)
            planned = self._plan.next()
        step = self._held(hold) if planned is None else self._allowed(planned, seam=seam)
        self._previous, self.last_step = step.action, step
        self.counts = replace(
            self.counts,
            steps=self.counts.steps + 1,
            held=self.counts.held + step.held,
            overrun=self.counts.overrun + beyond,
            clipped=self.counts.clipped + bool(step.clipped),
        )
        return step.action.copy()

    def reset(self, *, last_action: ArrayLike | None = None) -> None:
        """Begin an episode: forget chunks and replies under way; the server is told with the next query.

        Args:
            last_action: what the robot is told at present, (A,), for `hold="last"` and `largest_change`.
        """
        self._asker.begin()
        self._plan.forget()
        self._timing.pause()
        self._reply, self._observed = {}, None
        self._previous = None
        if last_action is not None:
            self._previous = as_action(last_action, size=self._action_dim, name="last_action")

    def close(self) -> None:
        """End the thread and the connection."""
        self._policy.close()
        self._asker.close()

    def __enter__(self) -> RobotClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, metadata: Mapping[str, Any], overrun: int) -> None:
        unknown = sorted(set(self._options) - self._understood)
        if unknown:
            raise UnsupportedError(f"the server does not understand the options {', '.join(unknown)}")
        if self.execution.until_next and not self._prefetch:
            raise ValueError("execution='until_next' asks while a chunk runs, so it needs prefetch=True")
        if overrun < 0 or (overrun and not self._prefetch):
            raise ValueError(f"overrun is 0, or more with prefetch=True, got {overrun}")
        size = metadata.get("action_dim")
        if isinstance(size, int):
            self._set_action_dim(size)

    def _set_action_dim(self, size: int) -> None:
        self._action_dim = size
        self._holding.set_size(size)
        if self._limits is not None:
            self._limits.check(size)

    def _ask_if_due(self, observation: Mapping[str, Any]) -> None:
        lead = self._timing.lead if self._prefetch else 0
        due = self._plan.remaining <= lead or self.execution.until_next
        if not due or not self._asker.ready:
            return
        options = dict(self._options)
        if self.execution.told is not None:
            options["execution"] = self.execution.told
        if "executed" in self._understood and self._observed is not None:
            connection, position, longest = self._observed
            if connection == self._policy.connections:
                options["executed"] = min(self._plan.position - position, longest)
        # The robot's program may write the next images into the same memory while this is sent.
        self._asker.ask(Question(copy.deepcopy(dict(observation)), options, self._plan.position))
        self.counts = replace(self.counts, queries=self.counts.queries + 1)

    def _await(self, observation: Mapping[str, Any], wait_s: float) -> bool:
        """Wait for a chunk, through lost connections if need be; return whether one took over."""
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            self._ask_if_due(observation)
            outcome = self._asker.take(left)
            if self._accept(outcome):
                return True
            if outcome is not None and not isinstance(outcome.error, TRANSIENT):
                return False  # a chunk that was of no use: hold, and ask again at the next step
        return False

    def _accept(self, outcome: Outcome | None) -> bool:
        """Return whether a chunk takes over."""
        if outcome is None:
            return False
        reply = outcome.reply
        if isinstance(outcome.error, NonFiniteError):
            reply = outcome.error.reply  # the server counts from it, so it is counted here too
        elif outcome.error is not None:
            self._broken = True
            self.counts = replace(self.counts, failures=self.counts.failures + 1)
            if isinstance(outcome.error, TRANSIENT):
                return False
            raise outcome.error
        self._timing.reply(outcome.seconds)
        actions = self._actions(reply)
        position = outcome.question.position
        self._observed = (outcome.connection, position, len(actions))  # the server counts from it
        if not np.isfinite(actions).all():
            self.counts = replace(self.counts, refused=self.counts.refused + 1)
            return False
        horizon = self.execution.horizon(reply, len(actions))
        if outcome.seconds > self._max_age_s:
            self.counts = replace(self.counts, late=self.counts.late + 1)
            return False
        driven = driven_by_person(reply)
        if driven:  # meant for now, not for the step of the observation
            position = self._plan.position
        if self._broken or driven:  # what is left of the old chunk is too old, or not wanted, to blend with
            self._plan.forget()
        if not self._plan.accept(actions, observed=position, horizon=horizon):
            self.counts = replace(self.counts, late=self.counts.late + 1)
            return False
        self._broken = False
        self._reply = reply
        self.counts = replace(self.counts, chunks=self.counts.chunks + 1)
        return True

    def _actions(self, reply: Mapping[str, Any]) -> Action:
        actions = reply.get("actions")
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind not in "iuf":
            raise WireError("the server's reply has no actions (K, A)")
        if 0 in actions.shape or self._action_dim not in (None, actions.shape[1]):
            size = "A" if self._action_dim is None else self._action_dim
            raise WireError(f"the server's actions have the shape {actions.shape}, expected (K, {size})")
        if self._action_dim is None:
            self._set_action_dim(actions.shape[1])
        return actions.astype(np.float32)

    def _held(self, action: Action | None) -> Step:
        if action is None:
            raise ReplyTimeoutError(
                "there is no last action to hold yet: call reset(last_action=...), or hold something else; if"
                f" the server took longer than max_age_s={self._max_age_s:g}, act on the present observation"
            )
        return Step(action, held=True, problem=self._problem(), reply=self._reply)

    def _allowed(self, planned: Action, *, seam: bool) -> Step:
        action, changed = planned, np.zeros(0, bool)
        if self._limits is not None:
            action, changed = self._limits.apply(planned, self._previous)
        clipped = tuple(np.flatnonzero(changed).tolist())
        return Step(action, seam=seam, clipped=clipped, problem=self._problem(), reply=self._reply)

    def _problem(self) -> str:
        return "" if self._asker.problem is None else str(self._asker.problem)
