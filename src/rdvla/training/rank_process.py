"""One process of a run that trains in several: its number, its log, and how it comes and goes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import check_writable, sole_user
from rdvla.training.config import TrainConfig


class LostRankError(RDVLAError):
    """Another process of the run is gone, so this one cannot go on."""


RANK = "RANK"  # what launchers call a process's number
LAUNCHER = "RDVLA_LAUNCHER"  # the process id of `rdvla train` that started this one
LOGS = "logs"  # folder of a run directory
LOST = 75  # exit code of a process that lost its connection to another one
FAREWELL = 10.0  # seconds that rank 0 has to say what failed; then its launcher ends all others


def is_rank() -> bool:
    """Whether a launcher started this process next to others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank_number() -> int:
    """Return this process's number among those that train together, from 0."""
    return int(os.environ.get(RANK, "0")) if is_rank() else 0


def rank_log(run: Path, number: int) -> Path:
    """Return the file with the output of a process of a run; rank 0 has none, it writes to the terminal."""
    return run / LOGS / f"rank-{number}.log"


def check_started(config: TrainConfig) -> None:
    """Check that a run of several processes was started in several.

    Raises:
        ConfigError: it was not.
    """
    if config.compute.processes > 1 and not is_rank():
        raise ConfigError(
            f"compute.processes is {config.compute.processes}, but this is one process. `rdvla train` and "
            "`accelerate launch` start several; or set compute.processes=1."
        )


@contextmanager
def process_of(run: Path) -> Iterator[None]:
    """Be one of the processes of a run for a `with` block.

    Rank 0 reserves the run's folder; the output of each other rank goes to its log. If the block fails, the
    others leave after rank 0, as a launcher ends all that are left when the first one leaves.

    Raises:
        ConfigError: nothing can be written there.
        RDVLAError: another run holds the folder.
    """
    number = rank_number()
    _follow_launcher()
    if number == 0:
        check_writable(run, option="output_dir", folder=True)
        with sole_user(run):
            yield
        return
    _redirect(rank_log(run, number))
    try:
        yield
    except LostRankError:
        raise
    except RDVLAError as error:
        sys.stderr.write(f"rdvla: error: {error}\n")
        await_first()
        raise


def await_first() -> None:
    """Let rank 0 leave first: whoever started the processes ends the others then."""
    if rank_number() > 0:
        time.sleep(FAREWELL)


def _redirect(log: Path) -> None:
    """Append what this process says from now on, and what libraries say, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _follow_launcher() -> None:
    """Stop, as at SIGTERM, if the `rdvla train` that started this process is killed."""
    launcher = int(os.environ.get(LAUNCHER, "0"))
    if not launcher:
        return

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
