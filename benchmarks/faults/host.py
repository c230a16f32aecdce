"""Starts commands in forked children, after it has imported what they import; `Host` is its other side.

Imports take longer than the work of such small runs, and nothing is written meanwhile. So most kills hit
commands that skip them; kills in the phase `start` hit `python -m rdvla.cli` itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What the three commands import.
MODULES = (
    "rdvla.cli.train", "rdvla.cli.eval", "rdvla.cli.demos", "rdvla.training.trainer", "rdvla.evaluation.run",
    "rdvla.simulation.demonstrations.generation", "rdvla.simulation.metaworld.environment", "mujoco",
    "torch._dynamo", "torch.utils.tensorboard",
)  # fmt: skip


class Host:
    """The process that forks; use as a context manager."""

    def __enter__(self) -> Host:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.host"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.kill()  # it has nothing to lose
        self._process.wait(timeout=60)
        self._process.stdin.close()

    def start(self, words: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path) -> Child:
        """Start `rdvla WORDS` in a session of its own."""
        order = {"words": list(words), "cwd": str(cwd), "environment": dict(environment), "log": str(log)}
        return Child(self, self.ask(order))

    def ask(self, order: Mapping[str, Any]) -> Any:
        """Send an order and return the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Child:
    """A command that the host runs; has what is used here of `subprocess.Popen`."""

    def __init__(self, host: Host, pid: int) -> None:
        self.pid = pid
        self._host = host
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self._code is None:
            self._code = self._host.ask({"poll": self.pid})
        return self._code


def usual_signals() -> None:
    """Let signals do what they do in a terminal: `nohup` and `&` make the benchmark itself ignore some."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def main() -> None:
    """Obey until the input ends; in a child, return into the interpreter's own end."""
    import importlib

    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        answer: int | None
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                sys.exit(_command(order))
        print(json.dumps(answer), flush=True)


def _command(order: dict[str, Any]) -> int:
    from rdvla.cli import __file__ as package
    from rdvla.cli import main as rdvla

    usual_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python does when it starts
    os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [str(Path(package).with_name("__main__.py")), *order["words"]]  # results hold the command
    tempfile.tempdir = None  # found anew, by the variable TMPDIR
    with open(order["log"], "wb") as log, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    return rdvla(order["words"])


if __name__ == "__main__":
    main()
