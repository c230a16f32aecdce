"""Runs trainings in forked children and kills them with SIGKILL; started by test_kill.py as a process of its
own.

It imports everything once and computes nothing itself, so that forking is cheap and safe.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch._dynamo
import torch.utils.tensorboard  # noqa: F401  likewise, by the log
from rich.console import Console

import rdvla.training.checkpoints as checkpoint_module
from rdvla.processing.augmentation import Augmentation
from rdvla.training import train
from tests.support.tiny_training import train_config


def _train(dataset: Path, output: Path, *, resume: bool, kill: tuple[str, int] | None) -> None:
    if kill is not None:
        _kill_inside(*kill)
    config = train_config(dataset, output, resume=resume)
    augmentation = Augmentation(crop_area=0.9, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    config = replace(config, data=replace(config.data, augmentation=augmentation))
    train(config, console=Console(quiet=True))


def _kill_inside(function: str, call: int) -> None:
    """Make the given call of a function that checkpoints are written with the last thing the process does.

    `policy rename` is a call by which the exported policy gets its place.
    """
    folder, function = (".policy", "rename") if function == "policy rename" else ("checkpoints", function)
    owner: Any = {"rename": Path, "rmtree": shutil}.get(function, checkpoint_module)
    original, calls = getattr(owner, function), [0]

    def killing(*args: Any, **kwargs: Any) -> Any:
        if any(folder in str(a) for a in args):
            calls[0] += 1
        if calls[0] == call:
            for target in [a for a in args if isinstance(a, Path) and function == "save_file"]:
                target.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, function, killing)


def _child(dataset: Path, output: Path, *, resume: bool, kill: tuple[str, int] | None) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _train(dataset, output, resume=resume, kill=kill)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return pid


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def random_kills(dataset: Path, output: Path, *, seed: int) -> int:
    """Kill and resume at random moments until a run ends by itself; return the number of kills."""
    rng, kills = random.Random(seed), 0
    while True:
        pid = _child(dataset, output, resume=kills > 0, kill=None)
        deadline = time.monotonic() + (rng.uniform(0.1, 1.5) if kills < 4 else 1e6)
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                if os.waitstatus_to_exitcode(status) != 0:
                    raise SystemExit("a run failed")
                return kills
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        _wait(pid)
        kills += 1


def main(dataset: Path, folder: Path, points: list[tuple[str, int]]) -> None:
    if _wait(_child(dataset, folder / "reference", resume=False, kill=None)) != 0:
        raise SystemExit("the reference run failed")
    sys.stdout.write(str(random_kills(dataset, folder / "random", seed=1)))
    for function, call in points:
        output = folder / f"{function}-{call}"
        if _wait(_child(dataset, output, resume=False, kill=(function, call))) != -signal.SIGKILL:
            raise SystemExit(f"call {call} of {function} was not reached")
        if _wait(_child(dataset, output, resume=True, kill=None)) != 0:
            raise SystemExit(f"the run killed in call {call} of {function} could not be resumed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [tuple(point) for point in json.loads(sys.argv[3])])
