"""Generate a dataset of demonstrations: scripted experts, in parallel processes, resumable at any time.

Attempts of a task are numbered from 0; the dataset holds the first `episodes_per_task` that succeed. Attempt
n depends on nothing but the configuration. So an interrupted generation, run again, writes the same episodes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TextColumn

from rdvla.data import DatasetWriter
from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import read_json, read_object, sole_user, write_json
from rdvla.progress import Progress
from rdvla.simulation.demonstrations.attempts import Attempt, AttemptRunner
from rdvla.simulation.demonstrations.config import DemonstrationConfig
from rdvla.simulation.demonstrations.ledger import Ledger, TaskReport
from rdvla.simulation.demonstrations.recording import NoiseConfig, frame_features
from rdvla.simulation.registry import make, resolve_tasks, step_limit, task_suite
from rdvla.workers.choice import WorkerChoice
from rdvla.workers.ends import WORKER_DIED, Failed
from rdvla.workers.pool import run_jobs

CONFIG_FILE = "demonstrations.json"


@dataclass(frozen=True)
class DemonstrationReport:
    """A finished generation."""

    root: Path  # the dataset's folder
    tasks: tuple[TaskReport, ...]  # in the dataset's order
    seconds: float  # wall time of this run; a resumed run counts from its resumption


def generate(config: DemonstrationConfig, *, show_progress: bool = True) -> DemonstrationReport:
    """Generate the dataset, or continue an interrupted run of the same configuration.

    The dataset's folder also gets `demonstrations.json`: the configuration and the attempts of each task. If
    the dataset of this configuration is there already, its report is returned.

    Raises:
        ConfigError: an unknown task or camera, or the unfinished generation has another configuration.
        DatasetError: the output holds something else already, or a staged episode is damaged (named).
        MissingExtraError: the simulator is not installed.
        RDVLAError: a worker died, an attempt raised, an expert fails too often, or another process is at it.
    """
    with sole_user(config.output):
        return _generate(config, show_progress=show_progress)


def _generate(config: DemonstrationConfig, *, show_progress: bool) -> DemonstrationReport:
    started = time.monotonic()
    config = _complete(config)
    assert config.max_steps is not None and config.burst_probability is not None
    tasks = list(config.tasks)
    settings = _settings(config)
    if (done := _finished(config.output, settings)) is not None:
        return DemonstrationReport(root=config.output, tasks=done, seconds=time.monotonic() - started)
    writer = _open_writer(config)
    _check_same_settings(writer.staging / CONFIG_FILE, settings)
    runner = AttemptRunner(
        writer=writer,
        env=config.env,
        cameras=config.cameras,
        image_size=config.image_size,
        camera_stride=config.camera_stride,
        seed=config.seed,
        rendering=config.rendering,
        noise=NoiseConfig(levels=config.noise_levels, burst_probability=config.burst_probability),
        max_steps=config.max_steps,
        steps_after_success=config.steps_after_success,
    )
    ledger = Ledger(
        tasks=tasks,
        episodes_per_task=config.episodes_per_task,
        max_attempts_per_episode=config.max_attempts_per_episode,
        outcomes=runner.outcomes(),
    )
    with _progress(total=len(tasks) * config.episodes_per_task, show=show_progress) as update:
        update(ledger.succeeded, ledger.failed)
        for attempt, success in _run_attempts(runner, ledger, config.worker_choice):
            ledger.record(attempt, success=success)
            update(ledger.succeeded, ledger.failed)
    reports = ledger.reports()
    record = {"config": settings, "tasks": [dataclasses.asdict(report) for report in reports]}
    root = writer.finalize(ledger.numbers(), records={CONFIG_FILE: record})
    return DemonstrationReport(root=root, tasks=reports, seconds=time.monotonic() - started)


def _run_attempts(
    runner: AttemptRunner, ledger: Ledger, choice: WorkerChoice
) -> Iterator[tuple[Attempt, bool]]:
    """Run the attempts that the ledger asks for; yield each with its success."""
    with choice.transport() as (transport, workers):
        alone = workers == 1 and choice.ray is None
        ends = run_jobs(
            runner,
            ledger.next_attempt,
            transport=None if alone else transport,
            workers=workers,
            retries=1,  # an attempt does the same again: only its worker's death may have been bad luck
        )
        for end in ends:
            if isinstance(end, Failed):
                raise _failure(end, scene=runner.seeds(end.job).scene)
            runner.unpack()
            yield end.job, end.result


def _failure(end: Failed[Attempt], *, scene: int) -> RDVLAError:
    if end.type == WORKER_DIED:
        return RDVLAError(
            f"{end.message}, twice, probably for lack of memory. What is finished is kept: "
            "run the same command again, with fewer workers"
        )
    error = RDVLAError(
        f"{end.job.task}, attempt {end.job.attempt} (scene seed {scene}) raised {end.type}: {end.message}"
    )
    error.add_note(end.traceback)
    return error


def _complete(config: DemonstrationConfig) -> DemonstrationConfig:
    """Fill in the simulator's defaults."""
    suite = task_suite(config.env)
    tasks = resolve_tasks(config.env, config.tasks or suite.default_tasks)
    steps, bursts = config.max_steps, config.burst_probability
    return dataclasses.replace(
        config,
        tasks=tuple(tasks),
        cameras=config.cameras or suite.cameras,
        noise_levels=config.noise_levels or suite.noise_levels,
        burst_probability=suite.burst_probability if bursts is None else bursts,
        max_steps=step_limit(config.env) if steps is None else steps,
    )


def _open_writer(config: DemonstrationConfig) -> DatasetWriter:
    """Open the writer; the simulator's first task gives the sizes of the vectors and checks the cameras."""
    env = make(config.env, config.tasks[0], cameras=config.cameras, image_size=config.image_size)
    try:
        return DatasetWriter.create(
            config.output,
            fps=round(env.control_hz),
            features=frame_features(env),
            cameras=config.cameras,
            image_size=config.image_size,
            robot_type=env.robot_type,
            rendering=config.rendering,
        )
    finally:
        env.close()


def _settings(config: DemonstrationConfig) -> dict[str, Any]:
    """Return the options that episodes depend on, as JSON holds them: neither output nor workers."""
    values = dataclasses.asdict(config)
    kept = {name: value for name, value in values.items() if name not in ("output", "workers", "ray")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def _finished(root: Path, settings: dict[str, Any]) -> tuple[TaskReport, ...] | None:
    """Return the tasks of the dataset in `root` if it is the one that is wanted; clear up after a kill."""
    try:
        record = read_object(root / CONFIG_FILE)
        if record["config"] != settings:
            return None
        tasks = tuple(TaskReport(**task) for task in record["tasks"])
    except (RDVLAError, KeyError, TypeError):
        return None
    DatasetWriter.clear_finished(root)
    return tasks


def _check_same_settings(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, settings)
        return
    found = read_json(path)
    for name, value in settings.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{path.parent} holds an unfinished generation with {name} = {found.get(name)}, "
                f"now it is {value}. Use the same configuration to go on, or delete that folder to start "
                "again"
            )


@contextmanager
def _progress(*, total: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how many of `total` episodes there are, and the time left; yields `update(episodes, failed)`."""
    progress = Progress(
        Console(stderr=True),
        TextColumn("{task.fields[failed]} attempts failed"),
        # Episodes of some tasks take longer: judge the speed by minutes, not by seconds.
        speed_estimate_period=300.0,
        show=show,
    )
    with progress:
        bar = progress.add_task("demonstrations", total=total, failed=0)

        def update(episodes: int, failed: int) -> None:
            progress.update(bar, completed=episodes, failed=failed)

        yield update
