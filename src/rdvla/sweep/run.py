"""`sweep(config)`: run what is not done yet, and report what there is."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rdvla.errors import RDVLAError
from rdvla.progress import Progress
from rdvla.sweep.config import SweepConfig
from rdvla.sweep.launch import Command, Ended, Launcher, is_done
from rdvla.sweep.outcomes import Outcome, by_setting, compare, read_outcome
from rdvla.sweep.page import print_table, write_report
from rdvla.sweep.trials import Trial, evaluation_options, plan, training_options
from rdvla.training.interruption import StopRequest

POLL = 0.2  # seconds between looks at whether to stop
DAY = 86400.0  # seconds of progress that the time left is estimated from: trials take long


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    report: Path | None  # None: no trial has finished
    finished: int  # trials
    problems: list[Ended]  # of the other trials
    stopped: bool  # by Ctrl-C or a signal


def sweep(config: SweepConfig, *, console: Console | None = None) -> SweepResult:
    """Run every trial that is not done, and write `sweep.json` and `report.html` of all that are.

    Each trial has a folder with its options, its logs, its run directory and its evaluation. Several
    processes may work on one sweep: a trial that another one runs counts as a problem here.

    Raises:
        ConfigError: the options of a trial are no configuration, or other than when it was started.
        RDVLAError: what a finished trial left cannot be read.
    """
    console = console or Console()
    trials = plan(config)
    left = [trial for trial in trials if not is_done(trial, _commands(config, trial))]
    settings = len({trial.setting for trial in trials})
    console.print(
        f"{len(trials)} trials: {settings} settings, {len(config.seeds)} seeds each; "
        f"{len(trials) - len(left)} are done",
        highlight=False,
    )
    problems, stopped = _run(config, left, console)
    failed = {problem.trial for problem in problems}
    outcomes = [
        read_outcome(trial, evaluated=bool(config.evaluation))
        for trial in trials
        if trial not in failed and is_done(trial, _commands(config, trial))
    ]
    report = _report(config, outcomes, trials=len(trials), console=console) if outcomes else None
    return SweepResult(report=report, finished=len(outcomes), problems=problems, stopped=stopped)


def _commands(config: SweepConfig, trial: Trial) -> list[Command]:
    commands = [Command("train", training_options(trial), trial.folder)]
    if config.evaluation:
        commands.append(Command("eval", evaluation_options(config, trial), trial.folder))
    return commands


def _run(config: SweepConfig, trials: Sequence[Trial], console: Console) -> tuple[list[Ended], bool]:
    problems: list[Ended] = []
    if not trials:
        return problems, False
    launcher = Launcher(lambda trial: _commands(config, trial), workers=min(config.workers, len(trials)))
    progress = Progress(console, speed_estimate_period=DAY)
    task = progress.add_task("trials", total=len(trials))

    def ended(end: Ended) -> None:
        said = end.problem
        if not said:
            try:
                said = _figures(read_outcome(end.trial, evaluated=bool(config.evaluation)))
            except RDVLAError as error:  # the others go on
                said = str(error)
                end = Ended(end.trial, said)
        if end.problem:
            problems.append(end)
        progress.console.print(f"{end.trial.name}: {said}", highlight=False, markup=False, soft_wrap=True)
        progress.advance(task)

    with StopRequest() as stop, progress, ThreadPoolExecutor(1) as pool:
        runs = pool.submit(launcher.run, trials, ended)
        while not wait([runs], POLL).done:
            if stop.requested:
                launcher.stop()
                wait([runs])
        runs.result()
    return problems, stop.requested


def _figures(outcome: Outcome) -> str:
    shown = "no validation" if outcome.best is None else f"best {outcome.figure} {outcome.best:.4f}"
    if outcome.results is not None:
        rows = outcome.results.rows
        shown += f", {sum(row.successes for row in rows)} of {sum(row.episodes for row in rows)} episodes"
    return shown


def _report(config: SweepConfig, outcomes: Sequence[Outcome], *, trials: int, console: Console) -> Path:
    settings = by_setting(outcomes)
    pairs = [compare(settings[0], other) for other in settings[1:]]
    print_table(settings, pairs, console=console)
    return write_report(Path(config.output), config, settings, pairs, trials=trials)
