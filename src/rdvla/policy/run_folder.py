"""Names in run directories of `rdvla train` and `lerobot-train`, and how a run goes on. Imports no torch."""

from __future__ import annotations

import shlex
from pathlib import Path

RUN_CONFIG = "config.yaml"  # its whole configuration
RUN_RECORD = "run.json"  # what it began with; marks a folder as a run directory
RUN_POLICY = "policy"  # the folder of its policy
LEROBOT_POLICY = "pretrained_model"  # the same in a checkpoint of `lerobot-train`
# Folders of a run directory that hold a policy: every run has them, so they name none.
GENERIC_FOLDERS = {RUN_POLICY, LEROBOT_POLICY, "best", "last", "checkpoints"}


def policy_name(policy: str) -> str:
    """Return what people call a policy: its id, its folder, or its run if the folder's name says nothing."""
    path = Path(policy)
    names = (path.resolve() if path.exists() else path).parts
    if len(names) > 2 and names[-1] == LEROBOT_POLICY and names[-2].isdecimal():
        names = names[:-2]  # of a checkpoint, by its step
    return next((name for name in reversed(names) if name not in GENERIC_FOLDERS), path.name)


def find_checkpoint(folder: Path) -> Path | None:
    """Return the newest policy in an output directory of `lerobot-train`, or in one of its checkpoints."""
    places = (folder / "checkpoints" / "last" / LEROBOT_POLICY, folder / LEROBOT_POLICY)
    return next((place for place in places if (place / "config.json").is_file()), None)


def resume_command(folder: Path) -> str:
    """Return the command of a shell that goes on with the run in a folder."""
    return f"rdvla train --config {shlex.quote(str(folder / RUN_CONFIG))} --resume true"
