"""Accelerate's trackers: TensorBoard, Weights & Biases and Trackio show a run's figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import (  # type: ignore[import-untyped, unused-ignore]
    LOGGER_TYPE_TO_CLASS,
    GeneralTracker,
)

from rdvla.errors import RDVLAError, missing_extra
from rdvla.training.config import TRACKERS

PROJECT = "rdvla"  # at a service, unless WANDB_PROJECT or TRACKIO_PROJECT names another


def check_installed(names: Sequence[str]) -> None:
    """Check that the packages of trackers are there.

    Raises:
        MissingExtraError: one is not; the message names the extra that brings it.
    """
    for name in names:
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder of this name, such as old figures, has no origin
            raise missing_extra(name, TRACKERS[name])


def open_trackers(
    names: Sequence[str], *, folder: Path, resumed_step: int, run_id: str, options: Mapping[str, Any]
) -> list[GeneralTracker]:
    """Start trackers; a run that goes on is continued in each.

    Args:
        names: of `TRACKERS`.
        folder: the run directory; its name is the run's at a service.
        resumed_step: updates done before.
        run_id: tells this run from others with its name.
        options: the run's options by dotted name.

    Raises:
        RDVLAError: a tracker does not start.
    """
    settings: dict[str, dict[str, Any]] = {
        "tensorboard": {"logging_dir": str(folder), "purge_step": resumed_step + 1},
        "wandb": {"name": folder.resolve().name, "dir": str(folder), "id": run_id, "resume": "allow"},
        "trackio": {"name": f"{folder.resolve().name}-{run_id}", "resume": "allow"},
    }
    opened = []
    for name in names:
        project = os.environ.get(f"{name.upper()}_PROJECT", PROJECT)
        try:
            tracker = LOGGER_TYPE_TO_CLASS[name](
                "tensorboard" if name == "tensorboard" else project, **settings[name]
            )
            tracker.start()
            if name != "tensorboard":  # there it would be a second run, next to this one
                tracker.store_init_configuration(dict(options))
        except OSError:
            raise
        except Exception as error:  # whatever a service's client raises
            raise RDVLAError(
                f"the tracker {name} does not start: {error}. Log in to it, use it offline, or leave it out "
                "of `trackers`."
            ) from error
        opened.append(tracker)
    return opened
