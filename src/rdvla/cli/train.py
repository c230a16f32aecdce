"""`rdvla train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rdvla.cli.failures import INTERRUPTED, SIGNALLED
from rdvla.errors import optional
from rdvla.training.config import TrainConfig
from rdvla.training.resuming import options_of_run

SHORT = "--backbone."
FULL = "--policy.backbone."


def run(config: TrainConfig) -> int:
    """Train a policy on a LeRobot dataset; `--resume true` goes on after an interruption, or for longer.

    `--backbone.x` is short for `--policy.backbone.x`, and `--backbone.name_or_path` chooses the backbone
    `huggingface` if neither a type nor a configuration file is given.

    `--compute.processes N` trains in N processes of this machine, one per GPU if it has GPUs; `accelerate
    launch -m rdvla.cli train ...` in those of several machines.
    """
    with optional("train"):
        from rdvla.training import train
        from rdvla.training.launch import launch
        from rdvla.training.rank_process import LOST, LostRankError, await_first, is_rank

    if config.compute.processes > 1 and not is_rank():
        return launch(config)
    try:
        result = train(config)
    except LostRankError as error:
        print(f"rdvla: error: {error}", file=sys.stderr)
        return LOST
    if result.finished:
        return 0
    await_first()
    return INTERRUPTED if result.signal is None else SIGNALLED + result.signal


def in_full(argv: Sequence[str]) -> list[str]:
    """Write short options of the backbone in full, and the paths of a run's config.yaml."""
    written = [FULL + word.removeprefix(SHORT) if word.startswith(SHORT) else word for word in argv]
    names = {word.split("=")[0] for word in written}
    if f"{FULL}name_or_path" in names and not names & {f"{FULL}type", "--config", "--config_path"}:
        written.append(f"{FULL}type=huggingface")
    return options_of_run(written)
