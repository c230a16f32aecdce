"""What a run directory says of its training, for `rdvla info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rdvla.config import read_yaml
from rdvla.policy.run_folder import RUN_CONFIG, RUN_POLICY, RUN_RECORD, resume_command

METRICS = "metrics.jsonl"
CHOSEN = ("dataset", "objective", "steps", "batch_size", "seed")  # of the configuration


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory of `rdvla train`."""
    return (folder / RUN_CONFIG).is_file() and (
        (folder / RUN_RECORD).is_file() or (folder / METRICS).is_file()
    )


def describe_run(folder: Path) -> dict[str, Any]:
    """Return what a run was asked to do, how far it is, its last figures, and how it goes on.

    Raises:
        RDVLAError: a file of it is damaged.
    """
    config = read_yaml(folder / RUN_CONFIG)
    lines = _metrics(folder / METRICS)
    facts: dict[str, Any] = {"folder": str(folder)}
    facts |= {name: config[name] for name in CHOSEN if name in config}
    steps_done = [line.get("step") for line in lines]
    facts["steps done"] = max((step for step in steps_done if isinstance(step, int)), default=0)
    for kind in ("train", "validation"):
        own = [line for line in lines if line.get("kind") == kind]
        if own:
            facts[f"last {kind}"] = {name: value for name, value in own[-1].items() if name != "kind"}
    facts["has a policy"] = (folder / RUN_POLICY / "config.json").is_file()
    resume = resume_command(folder)
    steps = config.get("steps")
    if isinstance(steps, int) and facts["steps done"] >= steps > 0:
        facts["train longer"] = f"{resume} --steps {2 * steps}"
    else:
        facts["go on"] = resume
    return facts


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's figures; a last line that was cut off while it was written is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):  # damaged: only numbers for people are lost
            continue
        if isinstance(content, dict):
            found.append(content)
    return found
