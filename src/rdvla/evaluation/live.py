"""Shows an evaluation on the live page: every episode that is being played is a robot there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from rich.console import Console

from rdvla.control import DepthJudge, Desk, Judge, as_stop, split_start
from rdvla.evaluation.config import EvaluationConfig
from rdvla.live import Hub, LivePage, LiveServer, QueryEvent, RobotEvent, RobotFacts
from rdvla.live.standalone import PORT
from rdvla.rollout import Answered, EpisodeJob, EpisodeResult, Failed, Finished, Opened, Spectator

ENDED = "this evaluation has ended"


class LiveSpectator:
    """Publishes the queries and ends of episodes.

    Args:
        hub: where to.
        desk: has the phase of every episode; episodes are added and removed here.
        policy: its name.
        facts: what the page has to know of the robots, by environment.
        make_judge: judges the queries of one episode.
    """

    def __init__(
        self,
        hub: Hub,
        desk: Desk,
        *,
        policy: str,
        facts: Mapping[str, RobotFacts] | None = None,
        make_judge: Callable[[], Judge] = DepthJudge,
    ) -> None:
        self._hub, self._desk, self._policy = hub, desk, policy
        self._facts, self._make_judge = facts or {}, make_judge
        self._judges: dict[EpisodeJob, Judge] = {}

    def answered(self, query: Answered) -> None:
        """See `Spectator.answered`."""
        robot = robot_name(query.job)
        if query.number == 0:
            self._begin(query.job, robot)
        rule = as_stop(split_start(query.job.setting.stop)[0])
        prediction = query.prediction
        judgement = self._judges[query.job].judge(prediction, max_depth=rule.max_depth)
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

    def ended(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> None:
        """See `Spectator.ended`."""
        robot = robot_name(end.job)
        if self._judges.pop(end.job, None) is None:
            return  # it ended before its first query
        phase = self._desk.phase(robot)
        self._desk.remove(robot)
        self._hub.publish(
            RobotEvent(robot, self._policy, time.time(), connected=False, phase=phase, note=_how(end))
        )

    def _begin(self, job: EpisodeJob, robot: str) -> None:
        self._judges[job] = self._make_judge()
        self._desk.add(robot)
        self._hub.publish(
            RobotEvent(
                robot,
                self._policy,
                time.time(),
                connected=True,
                phase="autonomous",
                facts=self._facts.get(job.env),
            )
        )


@contextmanager
def live_spectator(
    config: EvaluationConfig, opened: Mapping[str, Opened], *, console: Console
) -> Iterator[Spectator | None]:
    """Serve the live page while an evaluation plays, if it is asked for; yield what publishes to it.

    Raises:
        ConfigError: nobody can listen at its port.
    """
    if config.live is False:
        yield None
        return
    hub, desk = Hub(), Desk()
    page = LivePage(hub, desk, title=f"evaluation of {config.policy_label}")
    facts = {env: robot_facts(shown) for env, shown in opened.items()}
    port = PORT if config.live is True else config.live
    with LiveServer(page, port=port, farewell=ENDED) as server:
        console.print(f"live page: {server.address}", highlight=False)
        yield LiveSpectator(hub, desk, policy=config.policy_label, facts=facts)


def robot_facts(opened: Opened) -> RobotFacts:
    """Return what the page has to know of an environment's robot."""
    names = opened.names.get("action", ())
    low, high = opened.action_range or ((), ())
    return RobotFacts(
        action_names=names,
        action_low=low,
        action_high=high,
        action_held=tuple("gripper" in name for name in names),
        control_hz=opened.control_hz,
    )


def robot_name(job: EpisodeJob) -> str:
    """Return the name of an episode on the page; no other episode of an evaluation has it."""
    return f"{job.env} {job.task}, {job.setting.name}, seed {job.seed}"


def _how(end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> str:
    if isinstance(end, Failed):
        return f"exception: {end.type}: {end.message}"
    result = end.result
    return f"success after {result.steps} steps" if result.success else f"no success in {result.steps} steps"
