"""The episodes of an evaluation: which there are, and how each goes from a job to its record."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rich.console import Console

from rdvla.evaluation.config import EvaluationConfig
from rdvla.evaluation.journal import Journal
from rdvla.evaluation.players import Player, Staging
from rdvla.evaluation.protocol import Suite
from rdvla.evaluation.records import Episode, EpisodeError
from rdvla.evaluation.table import readable
from rdvla.progress import Progress
from rdvla.rollout import EpisodeJob, Outcome, Setting
from rdvla.workers import Failed

DESCRIPTION_WIDTH = 48  # of the progress line; LIBERO's tasks have long names
SPEED_PERIOD = 900.0  # seconds of progress that the time left is estimated from: episodes may take minutes


def episode_jobs(config: EvaluationConfig, suites: Sequence[Suite]) -> list[EpisodeJob]:
    """Every setting, environment and task with the same seeds, in the order of the results.

    `Schedule` chooses in which order they are played.
    """
    return [
        EpisodeJob(
            env=suite.env,
            task=task,
            setting=setting,
            seed=config.seed + number,
            max_steps=suite.max_steps,
            video=_video_path(config, suite.env, task, setting, number) if number < config.videos else None,
            video_fps=config.video_fps,
        )
        for setting in config.settings
        for suite in suites
        for task in suite.tasks
        for number in range(config.episodes)
    ]


def _video_path(config: EvaluationConfig, env: str, task: str, setting: Setting, number: int) -> Path:
    words = f"{env} {task} {setting.describe()} {setting.execution} {number}"
    name = re.sub(r"[^a-z0-9._]+", "-", words.lower())
    return Path(config.output).absolute() / "videos" / f"{name}.mp4"


def play_jobs(
    player: Player,
    config: EvaluationConfig,
    jobs: Sequence[EpisodeJob],
    *,
    staging: Staging,
    journal: Journal,
    console: Console,
) -> None:
    """Play episodes, with progress, and write each into the journal as it ends."""
    if not jobs:
        return
    with ExitStack() as stopping, Progress(console, speed_estimate_period=SPEED_PERIOD) as progress:
        bar = progress.add_task("episodes", total=len(jobs))
        outcomes = player.play(jobs, staging)
        stopping.enter_context(closing(outcomes))  # no worker records on while its dataset is completed
        for outcome in outcomes:
            episode = _episode(config, outcome)
            journal.add(episode)
            if episode.error is not None:
                progress.console.print(
                    f"exception in {episode.env} {episode.task}, {episode.setting.describe()}, "
                    f"seed {episode.seed}: {episode.error.type}: {episode.error.message}",
                    style="red",
                    markup=False,
                    highlight=False,
                )
            elif (problem := _video_problem(outcome)) is not None:
                progress.console.print(
                    f"warning: no video of {episode.task}, seed {episode.seed}: {problem}",
                    style="yellow",
                    markup=False,
                    highlight=False,
                )
            at = textwrap.shorten(f"{episode.env} · {readable(episode.task)}", DESCRIPTION_WIDTH)
            progress.update(bar, advance=1, description=at)


def _video_problem(outcome: Outcome) -> str | None:
    return None if isinstance(outcome.end, Failed) else outcome.end.result.video_problem


def _episode(config: EvaluationConfig, outcome: Outcome) -> Episode:
    end, job = outcome.end, outcome.end.job
    known: dict[str, Any] = {
        "env": job.env,
        "task": job.task,
        "policy": config.policy_label,
        "stop": job.setting.stop,
        "execution": job.setting.execution,
        "seed": job.seed,
        "depths": outcome.depths,
        "served": outcome.served,
    }
    if isinstance(end, Failed):
        error = EpisodeError(end.type, end.message, end.traceback)
        return Episode(**known, success=None, steps=0, executed=[], error=error)
    helped = end.result.driven_steps > 0
    filmed = job.video is not None and end.result.video_problem is None
    return Episode(
        **known,
        success=end.result.success and not helped,
        steps=end.result.steps,
        driven_steps=end.result.driven_steps,
        interventions=end.result.interventions,
        success_with_help=end.result.success if helped else None,
        executed=end.result.executed,
        video=str(job.video.relative_to(Path(config.output).absolute()))
        if filmed and job.video is not None
        else None,
        video_stride=end.result.video_stride if filmed else None,
        video_speed=end.result.video_speed if filmed else None,
    )
