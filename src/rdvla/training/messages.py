"""What a run says when it goes on and when it ends: what was written, and what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rdvla.errors import DatasetError
from rdvla.files import os_error_sentence, read_object
from rdvla.policy import TRAINING
from rdvla.progress import duration
from rdvla.training.schedule import Length

if TYPE_CHECKING:
    from rdvla.training.trainer import Trainer

TITLE = 16  # width
UNITS_ANEW = (
    "the run does not say in which units its weights were trained, as an older version began it and it has "
    "no policy yet. They are computed anew from the dataset: if the loss jumps, begin a new run."
)

COMPUTED_ELSEWHERE = (
    "the run goes on with another arithmetic than it began with: {}. Its updates differ by rounding from "
    "those of an undisturbed run, and the difference grows."
)


def resume_lines(trainer: Trainer, *, before: Length) -> list[str]:
    """Say where a run goes on.

    Args:
        trainer: with the state of the checkpoint.
        before: the run's length so far.
    """
    step, steps = trainer.state.step, trainer.config.steps
    if step == steps:
        return [f"The run has done all of its {steps:,} updates; --steps extends it."]
    lines = [f"Going on after step {step:,} of {steps:,}."]
    if before.steps != steps:
        lines.append(
            f"The run was to end after {before.steps:,} updates. Over the next "
            f"{trainer.config.optimizer.warmup(steps)} the learning rate moves to the schedule of {steps:,}."
        )
    return lines


def stop_lines(trainer: Trainer) -> list[str]:
    """Say what is there of a run that was interrupted, and how it goes on."""
    there = [("policy", _exported(trainer))] if trainer.export.step() is not None else []
    return [
        f"Stopped after step {trainer.state.step}.",
        *titled([*there, ("go on", trainer.run_directory.resume_command())]),
    ]


def finish_lines(trainer: Trainer) -> list[str]:
    """Say what a finished run has written, and what comes next."""
    run = trainer.run_directory
    name, state = shlex.quote(str(run.path)), trainer.state
    figures = str(run.path / "metrics.jsonl")
    if "tensorboard" in trainer.config.trackers:
        figures += f"; tensorboard --logdir {shlex.quote(str(run.path / 'tensorboard'))}"
    if trainer.config.objective == "perception":
        following = f"rdvla train --init_from {name} --freeze_backbone true --dataset ..."
    else:
        following = f"rdvla eval --policy {name} --output {shlex.quote(str(run.path / 'eval'))} --env ..."
    recordings = f"rdvla openloop {name} {shlex.quote(trainer.config.dataset)}"
    return [
        f"Finished: {state.step:,} updates in {duration(state.seconds)}.",
        *titled(
            [
                ("policy", _exported(trainer)),
                ("figures", figures),
                ("next", following),
                *([("", recordings)] if trainer.config.objective == "actions" else []),
                ("", f"rdvla info {name}"),
                ("train longer", f"{run.resume_command()} --steps {2 * state.step}"),
            ]
        ),
    ]


def unwritable(trainer: Trainer, error: OSError) -> str:
    """Say in one sentence what could not be written, and what is left to go on from."""
    latest = trainer.store.named("latest")
    kept = f"its last whole checkpoint is {latest}" if latest else "it has no checkpoint yet"
    return (
        f"{os_error_sentence(error)}. The run stopped after step {trainer.state.step}; {kept}. "
        f"Go on with: {trainer.run_directory.resume_command()}"
    )


def unreadable(trainer: Trainer, error: DatasetError) -> str:
    """Say what of the dataset could not be read, and what is left to go on from."""
    latest = trainer.store.named("latest")
    kept = f"a checkpoint is in {latest}" if latest else "it has no checkpoint yet"
    return (
        f"{error}. The run stopped after step {trainer.state.step}; {kept}. "
        f"Go on with: {trainer.run_directory.resume_command()}"
    )


def titled(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Lay out pairs of a title and a text."""
    return [f"{title:<{TITLE}}{text}" for title, text in lines]


def _exported(trainer: Trainer) -> str:
    record = read_object(trainer.export.folder / TRAINING)
    loss = record["validation_loss"]
    figure = "" if loss is None else f", validation loss {loss:.4f}"
    text = f"{trainer.export.folder}: the {record['chosen']} weights, of step {record['steps']}{figure}"
    if record["chosen"] == "best" and record["steps"] != trainer.state.step:
        text += " (for the last ones: --resume true --checkpoints.policy last)"
    return text
