"""`evaluate(config)`: plays every task under every setting and writes the run directory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rdvla import simulation
from rdvla.evaluation.config import EvaluationConfig
from rdvla.evaluation.environment import MakeEnvironment, make_environment
from rdvla.evaluation.hardware import command_line, describe_hardware
from rdvla.evaluation.journal import Journal, check_same_run
from rdvla.evaluation.results import Episode, EpisodeError, Results, summarise
from rdvla.evaluation.rollout import Outcome, Policy, roll_out
from rdvla.evaluation.setting import Setting
from rdvla.evaluation.table import print_table
from rdvla.evaluation.worker import Failed, Job
from rdvla.execution import check_fits, parse_execution
from rdvla.policy import RDVLAPolicy


def evaluate(config: EvaluationConfig, *, console: Console | None = None) -> Path:
    """Evaluate a saved policy in a simulator; returns the path of `results.json`.

    A run directory that already holds finished episodes of the same evaluation is continued.

    Raises:
        ConfigError: unknown task, setting or simulator, or the output holds another evaluation.
        RDVLAError: the policy cannot be loaded, or environment workers keep dying.
    """
    tasks = simulation.resolve_tasks(config.env, config.tasks)
    policy = RDVLAPolicy.from_pretrained(config.policy).eval()
    for rule in config.execution:
        check_fits(parse_execution(rule), chunk_size=policy.config.head.chunk_size)
    make = functools.partial(
        make_environment, config.env, cameras=policy.config.cameras, image_size=policy.config.image_size
    )
    return evaluate_policy(
        policy,
        config,
        tasks=tasks,
        make=make,
        provenance=_provenance(config, policy),
        fingerprint=fingerprint(policy),
        console=console,
    )


def evaluate_policy(
    policy: Policy,
    config: EvaluationConfig,
    *,
    tasks: Sequence[str],
    make: MakeEnvironment,
    provenance: dict[str, Any],
    fingerprint: str,
    console: Console | None = None,
) -> Path:
    """Like `evaluate`, with a policy and an environment factory (which has to pickle) of the caller's own."""
    output = Path(config.output)
    check_same_run(output, config, fingerprint)
    console = console or Console()
    torch.set_num_threads(config.threads)
    start = time.perf_counter()
    journal = Journal(output / "episodes.jsonl")
    try:
        jobs = _jobs(config, tasks)
        missing = [job for job in jobs if not journal.finished(_key(job))]
        _play(policy, config, missing, journal=journal, make=make, console=console)
        episodes = [journal.episodes[_key(job)] for job in jobs]
    finally:
        journal.close()
    meta = {
        "config": {**dataclasses.asdict(config), "tasks": list(tasks), "output": output.name},
        "policy": {**provenance, "fingerprint": fingerprint},
        "hardware": describe_hardware(),
        "command": command_line(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),  # a continued run counts its last part
    }
    results = Results(rows=summarise(episodes), episodes=episodes, meta=meta)
    results.write(output / "results.json")
    print_table(results, console=console)
    return output / "results.json"


def _provenance(config: EvaluationConfig, policy: RDVLAPolicy) -> dict[str, Any]:
    """Where the policy came from, and its sizes (parameters)."""
    return {
        "path": Path(config.policy).name,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "head_parameters": sum(p.numel() for p in policy.head.parameters()),
        "core_blocks": len(policy.config.head.core),
    }


def fingerprint(module: torch.nn.Module) -> str:
    """A short hash of a module's weights: two policies with the same one act the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _jobs(config: EvaluationConfig, tasks: Sequence[str]) -> list[Job]:
    """Setting by setting, task by task, the same seeds for all."""
    return [
        Job(
            task=task,
            setting=setting,
            seed=config.seed + number,
            max_steps=config.max_steps,
            video=_video_path(config, task, setting, number) if number < config.videos else None,
        )
        for setting in config.settings
        for task in tasks
        for number in range(config.episodes)
    ]


def _video_path(config: EvaluationConfig, task: str, setting: Setting, number: int) -> Path:
    name = re.sub(r"[^a-z0-9.]+", "-", f"{task} {setting.describe()} {setting.execution} {number}".lower())
    return Path(config.output) / "videos" / f"{name}.mp4"


def _key(job: Job) -> tuple[str, Setting, int]:
    return job.task, job.setting, job.seed


def _play(
    policy: Policy,
    config: EvaluationConfig,
    jobs: Sequence[Job],
    *,
    journal: Journal,
    make: MakeEnvironment,
    console: Console,
) -> None:
    if not jobs:
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("episodes", total=len(jobs))
        for outcome in roll_out(policy, jobs, make=make, workers=config.workers):
            episode = _episode(config, outcome)
            journal.add(episode)
            if episode.error is not None:
                progress.console.print(
                    f"exception in {episode.task}, {episode.setting.describe()}, seed {episode.seed}: "
                    f"{episode.error.type}: {episode.error.message}",
                    style="red",
                    markup=False,
                    highlight=False,
                )
            progress.update(bar, advance=1, description=f"{episode.setting.describe()} · {episode.task}")


def _episode(config: EvaluationConfig, outcome: Outcome) -> Episode:
    job, end = outcome.job, outcome.end
    failed = isinstance(end, Failed)
    video = None if failed or job.video is None else str(job.video.relative_to(config.output))
    return Episode(
        env=config.env,
        task=job.task,
        policy=config.policy_label,
        rule=job.setting.rule,
        depth=job.setting.depth,
        execution=job.setting.execution,
        seed=job.seed,
        success=None if isinstance(end, Failed) else end.success,
        steps=0 if isinstance(end, Failed) else end.steps,
        depths=outcome.depths,
        executed=[] if isinstance(end, Failed) else end.executed,
        query_ms=outcome.query_ms,
        video=video,
        error=EpisodeError(end.type, end.message, end.traceback) if isinstance(end, Failed) else None,
    )
