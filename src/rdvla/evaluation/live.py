"""Shows an evaluation on the live page: every episode that is being played is a robot there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
from rich.console import Console

from rdvla.control import Desk, as_stop
from rdvla.errors import RDVLAError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.live import Hub, LivePage, LiveServer, QueryEvent, RobotEvent, RobotFacts, StepEvent
from rdvla.live.rerun import RerunLog
from rdvla.live.standalone import PORT
from rdvla.rollout import Answered, EpisodeJob, EpisodeResult, Opened, held
from rdvla.types import Observation
from rdvla.workers import Failed, Finished

ENDED = "this evaluation has ended"


class LiveSpectator:
    """Publishes the queries and ends of episodes.

    Args:
        hub: where to.
        desk: has the phase of every episode.
        policy: its name.
        facts: what the page has to know of the robots, by environment.
    """

    def __init__(
        self,
        hub: Hub,
        desk: Desk,
        *,
        policy: str,
        facts: Mapping[str, RobotFacts] | None = None,
    ) -> None:
        self._hub, self._desk, self._policy = hub, desk, policy
        self._facts = facts or {}
        self._known: set[EpisodeJob] = set()
        self.problem: RDVLAError | None = None  # what could not be logged; the episodes are fine

    def answered(self, query: Answered) -> None:
        """See `Spectator.answered`."""
        robot = query.job.robot
        if query.number == 0:
            self._begin(query.job)
        rule = as_stop(query.job.setting.rule)
        prediction, judgement = query.prediction, query.judgement
        self._hub.publish(
            QueryEvent(
                robot=robot,
                policy=self._policy,
                time=time.time(),
                number=query.number,
                instruction=str(query.observation.instruction),
                images=query.observation.images,
                state=query.observation.state,
                actions=np.asarray(prediction.actions),
                execute_steps=query.execute_steps,
                depth=int(prediction.depth),
                max_depth=rule.max_depth,
                # A fixed depth is reached, whether the actions have settled or not.
                ended_by="converged" if bool(prediction.converged) and not rule.is_fixed else "max_depth",
                uncertainty=judgement.uncertainty,
                band=judgement.band,
                help_requested=judgement.help_requested,
                phase=self._desk.phase(robot),
                milliseconds={
                    "waiting": query.waiting_ms,
                    "inference": query.inference_ms,
                    "total": query.waiting_ms + query.inference_ms,
                },
                batch_size=query.batch_size,
            )
        )

    def driven(self, job: EpisodeJob, observation: Observation) -> None:
        """See `Spectator.driven`."""
        self._hub.publish(StepEvent(job.robot, time.time(), observation.images, observation.state))

    def ended(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> None:
        """See `Spectator.ended`."""
        if end.job not in self._known:
            return  # it ended before its first query
        self._known.remove(end.job)
        phase = self._desk.phase(end.job.robot)
        self._hub.publish(
            RobotEvent(end.job.robot, self._policy, time.time(), connected=False, phase=phase, note=_how(end))
        )

    def _begin(self, job: EpisodeJob) -> None:
        self._known.add(job)
        self._hub.publish(
            RobotEvent(
                job.robot,
                self._policy,
                time.time(),
                connected=True,
                phase="autonomous",
                facts=self._facts.get(job.env),
            )
        )


@contextmanager
def live_page(
    config: EvaluationConfig, opened: Mapping[str, Opened], desk: Desk, *, console: Console
) -> Iterator[LiveSpectator | None]:
    """Serve the live page and log to Rerun while an evaluation plays, if asked for; yield what publishes.

    Raises:
        ConfigError: nobody can listen at its port, or Rerun's file exists.
    """
    if config.live is False and not config.rerun:
        yield None
        return
    hub = Hub()
    facts = {env: robot_facts(shown) for env, shown in opened.items()}
    spectator = LiveSpectator(hub, desk, policy=config.policy_label, facts=facts)
    with ExitStack() as stack:
        if config.live is not False:
            page = LivePage(hub, desk, title=f"evaluation of {config.policy_label}")
            port = PORT if config.live is True else config.live
            server = stack.enter_context(LiveServer(page, port=port, farewell=ENDED))
            console.print(f"live page: {server.address}", highlight=False)
        log = stack.enter_context(RerunLog(hub, config.rerun)) if config.rerun else None
        yield spectator
        if log is not None:
            try:
                log.close()
            except RDVLAError as error:
                spectator.problem = error


def robot_facts(opened: Opened) -> RobotFacts:
    """Return what the page has to know of an environment's robot."""
    names = opened.names.get("action", ())
    low, high = opened.action_range or ((), ())
    return RobotFacts(
        action_names=names,
        action_low=low,
        action_high=high,
        action_held=held(names),
        control_hz=opened.control_hz,
        drivable=True,
    )


def _how(end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> str:
    if isinstance(end, Failed):
        return f"exception: {end.type}: {end.message}"
    result = end.result
    how = f"success after {result.steps} steps" if result.success else f"no success in {result.steps} steps"
    return f"{how}, {result.driven_steps} of them by a person" if result.driven_steps else how
