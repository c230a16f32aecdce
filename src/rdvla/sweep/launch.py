"""Run the trials: each as the commands that a user would type, several at the same time."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import read_object, sole_user, write_atomically, write_json
from rdvla.sweep.trials import Trial
from rdvla.training.run_directory import differences

OPTIONS = "options.json"  # in a trial's folder: what it was started with
DONE = "done.json"  # in a trial's folder, once every command has ended with 0
LAST_LINES = 3  # of a log, to say why a command failed


@dataclass(frozen=True)
class Command:
    """A verb with its options, and where its output goes."""

    verb: str
    options: dict[str, Any]  # nested
    folder: Path  # of the file with the options, and of the log

    @property
    def log(self) -> Path:
        """Where its output is."""
        return self.folder / f"{self.verb}.log"


@dataclass(frozen=True)
class Ended:
    """How a trial ended."""

    trial: Trial
    problem: str = ""  # a sentence; empty: every command ended with 0


MakeCommands = Callable[[Trial], Sequence[Command]]


class Launcher:
    """Runs trials in processes of their own, `workers` at a time.

    Args:
        make_commands: what a trial runs, one after the other.
        workers: trials at the same time.
    """

    def __init__(self, make_commands: MakeCommands, *, workers: int) -> None:
        self._make_commands, self._workers = make_commands, workers
        self._stopped = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, trials: Sequence[Trial], ended: Callable[[Ended], None]) -> None:
        """Run all trials that are not done; tell of each as it ends, from the thread that ran it.

        After `stop`, return once those that run have ended. What `ended` raises is raised here, then.
        """
        waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        for trial in trials:
            waiting.put(trial)
        with ThreadPoolExecutor(self._workers) as pool:
            slots = [pool.submit(self._work, waiting, slot, ended) for slot in range(self._workers)]
        for slot in slots:
            slot.result()

    def stop(self) -> None:
        """Let what runs save its state and end; start nothing more."""
        with self._lock:
            self._stopped.set()
            for process in self._running:
                process.send_signal(signal.SIGTERM)

    def _work(self, waiting: queue.SimpleQueue[Trial], slot: int, ended: Callable[[Ended], None]) -> None:
        while not self._stopped.is_set():
            try:
                trial = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                with sole_user(trial.folder):
                    commands = self._make_commands(trial)
                    # Another process may have run it since it was found unfinished.
                    problem = "" if is_done(trial, commands) else self._run_trial(trial, commands, slot)
            except (RDVLAError, OSError) as error:
                problem = str(error)
            ended(Ended(trial, problem))

    def _run_trial(self, trial: Trial, commands: Sequence[Command], slot: int) -> str:
        started = time.monotonic()
        (trial.folder / DONE).unlink(missing_ok=True)  # of fewer commands
        write_json(trial.folder / OPTIONS, {command.verb: command.options for command in commands})
        for command in commands:
            code = self._run_command(command, self._environment(slot, commands))
            if self._stopped.is_set():
                return "it was stopped; the same command goes on with it"
            if code != 0:
                said = f"{command.log} says:\n{_end(command.log)}"
                return f"rdvla {command.verb} ended with {_named(code)}; {said}"
        write_json(trial.folder / DONE, {"seconds": round(time.monotonic() - started, 1)})
        return ""

    def _run_command(self, command: Command, environment: dict[str, str]) -> int:
        options = command.folder / f"{command.verb}.yaml"
        with write_atomically(options) as temporary:
            temporary.write_text(yaml.safe_dump(command.options, sort_keys=False), encoding="utf-8")
        words = [sys.executable, "-m", "rdvla.cli", command.verb, "--config", str(options)]
        with command.log.open("ab") as log:
            with self._lock:
                if self._stopped.is_set():
                    return 0
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def _environment(self, slot: int, commands: Sequence[Command]) -> dict[str, str]:
        """Give each of several slots GPUs of its own, as many as a trial trains with, as far as they go."""
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        devices = chosen.split(",") if chosen else [str(number) for number in range(count)]
        each = max(command.options.get("compute", {}).get("processes", 1) for command in commands)
        slots = len(devices) // each
        if self._workers == 1 or slots < 1 or len(devices) < 2:
            return dict(os.environ)
        first = slot % slots * each
        return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices[first : first + each])}


def is_done(trial: Trial, commands: Sequence[Command]) -> bool:
    """Return whether a trial has ended well.

    Raises:
        ConfigError: its folder holds a trial with other options.
    """
    record = trial.folder / OPTIONS
    if not record.exists():
        return False
    before, now = read_object(record), {command.verb: command.options for command in commands}
    for verb, options in before.items():
        changed = differences(options, now.get(verb, options))
        if changed:
            name, (was, wanted) = next(iter(changed.items()))
            raise ConfigError(
                f"trial {trial.name} was started with other options of rdvla {verb}: {name} was "
                f"{_given(was)}, and now it is {_given(wanted)} ({record}). Take it back, or choose another "
                "output"
            )
    return (trial.folder / DONE).exists() and before.keys() >= now.keys()


def _given(value: Any) -> str:
    return "not given" if value is None else str(value)


def _named(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])
