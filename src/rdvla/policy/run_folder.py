"""Names in a run directory of `rdvla train`, and the command that goes on with it. Imports no torch."""

from __future__ import annotations

import shlex
from pathlib import Path

RUN_CONFIG = "config.yaml"  # its whole configuration
RUN_RECORD = "run.json"  # what it began with; marks a folder as a run directory
RUN_POLICY = "policy"  # the folder of its policy
# Folders of a run directory that hold a policy: every run has them, so they name none.
GENERIC_FOLDERS = {RUN_POLICY, "best", "last", "checkpoints"}


def policy_name(policy: str) -> str:
    """Return what people call a policy: its id, its folder, or its run if the folder's name says nothing."""
    path = Path(policy)
    names = (path.resolve() if path.exists() else path).parts
    return next((name for name in reversed(names) if name not in GENERIC_FOLDERS), path.name)


def resume_command(folder: Path) -> str:
    """Return the command of a shell that goes on with the run in a folder."""
    return f"rdvla train --config {shlex.quote(str(folder / RUN_CONFIG))} --resume true"
