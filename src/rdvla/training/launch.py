"""`rdvla train` in several processes of this machine, which torch's launcher starts and watches."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, PContext, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from rdvla.config import encode_config
from rdvla.errors import ConfigError, RDVLAError
from rdvla.leftovers import remove, temporary_name
from rdvla.training.checkpoints import CheckpointStore
from rdvla.training.config import TrainConfig
from rdvla.training.inference import named
from rdvla.training.interruption import stop_signals
from rdvla.training.rank_process import LAUNCHER, LOGS, LOST, RANK, rank_log
from rdvla.training.run_directory import RunDirectory

HOST = "127.0.0.1"
POLL = 0.1  # seconds between two looks at the processes


def launch(config: TrainConfig) -> int:
    """Train in `config.compute.processes` processes of this machine; return the exit code of rank 0.

    Ctrl-C, SIGTERM and SIGHUP are passed on once: all ranks stop after the same update.

    Raises:
        ConfigError: this machine has fewer accelerators, or the run directory cannot be used.
        RDVLAError: a process ended; the message names it, its exit code or signal, and its log.
    """
    config = named(config)
    _check_accelerators(config)
    run = RunDirectory(config)
    logging.getLogger("torch.distributed.elastic.multiprocessing").setLevel(logging.CRITICAL)  # we say it
    with _folder_for_ranks(run.path) as folder, socket.socket() as listener:
        file = folder / "train.yaml"
        file.write_text(yaml.safe_dump(encode_config(config), sort_keys=False), encoding="utf-8")
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        # The ranks meet here, so that no port is chosen before it is used. The store closes the listener.
        store = dist.TCPStore(  # type: ignore[attr-defined]  # torch lists it in no __all__
            HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        failure = _failure(_start(config, file, port=port))
        del store
    if failure is None:
        return 0
    if failure.local_rank == 0 and failure.exitcode > 0:
        return failure.exitcode  # rank 0 has said why
    raise RDVLAError(_sentence(failure, run, count=config.compute.processes))


@contextmanager
def _folder_for_ranks(run: Path) -> Iterator[Path]:
    """Make a folder for files of the ranks; if this process is killed, the run's next start removes it."""
    folder = temporary_name(run / LOGS / "ranks")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def _check_accelerators(config: TrainConfig) -> None:
    there = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if config.device != "cpu" and 0 < there < config.compute.processes:
        raise ConfigError(
            f"compute.processes is {config.compute.processes}, but this machine has {there} accelerators, "
            f"and each process takes one: set compute.processes={there}, or device=cpu."
        )


def _start(config: TrainConfig, file: Path, *, port: int) -> PContext:
    count = config.compute.processes
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 finds the store rather than opening one
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(config.threads)),
        LAUNCHER: str(os.getpid()),
    }
    numbers = range(count)
    return start_processes(
        name="rdvla train",
        entrypoint=sys.executable,
        args={number: ("-m", "rdvla.cli", "train", "--config", str(file)) for number in numbers},
        envs={number: shared | {RANK: str(number), "LOCAL_RANK": str(number)} for number in numbers},
        logs_specs=_OwnLogs(file.parent),
    )


def _failure(processes: PContext) -> ProcessFailure | None:
    """Wait for all processes; return what failed first, None if nothing did."""
    asked = False

    def pass_on(number: int, _frame: Any) -> None:
        nonlocal asked
        for process in processes.pids().values():
            # Torch starts each process in a session of its own, which Ctrl-C does not reach.
            os.kill(process, signal.SIGKILL if asked and number == signal.SIGINT else number)
        asked = True

    before = {number: signal.signal(number, pass_on) for number in stop_signals()}
    try:
        ended = None
        while ended is None:
            ended = processes.wait(timeout=POLL, period=POLL)
    finally:
        processes.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    failures = list(ended.failures.values())
    # One that lost its connection tells of another one that was there first.
    return min(
        failures,
        key=lambda one: (one.exitcode == LOST, one.exitcode == -signal.SIGTERM, one.timestamp),
        default=None,
    )


def _sentence(failure: ProcessFailure, run: RunDirectory, *, count: int) -> str:
    code = failure.exitcode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    number = failure.local_rank
    where = "its output is above" if number == 0 else f"its output is in {rank_log(run.path, number)}"
    latest = CheckpointStore(run.checkpoints).named("latest")
    kept = f"The last whole checkpoint is {latest}" if latest else "There is no checkpoint yet"
    return (
        f"process {number} of {count} {how}; {where}. All others were ended. {kept}. "
        f"Go on with: {run.resume_command()}"
    )


class _OwnLogs(LogsSpecs):
    """Each rank writes to a log of its own, see `rank_process`: torch redirects nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        nothing = dict.fromkeys(envs, "")
        errors = {number: str(self._folder / f"error-{number}.json") for number in envs}
        return LogsDest(nothing, dict(nothing), dict(nothing), dict(nothing), errors)

    @property
    def root_log_dir(self) -> str:
        return str(self._folder)
