"""One start of a command: runs it, says in which phase it is, and kills it if told to."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.cases import Case
from benchmarks.faults.cluster import RayNodes
from benchmarks.faults.host import Child, Host, usual_signals
from benchmarks.faults.kills import LIVES_ON, Kill, deliver
from benchmarks.faults.processes import MARK, processes_of, wait_for_none

ROOT = Path(__file__).parents[2]
TEMPORARY = "tmp"  # in the folder of a run
POLL = 0.005  # seconds
LEAVING = 20.0  # seconds that workers have to notice that their parent is gone
Files = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Times:
    """Length of the phases of an undisturbed run, in seconds."""

    start: float  # of a command that a host forks
    work: float
    ending: float
    imports: float = 0.0  # what a fresh interpreter needs in front of it

    @property
    def total(self) -> float:
        """From the command to its end."""
        return self.imports + self.start + self.work + self.ending

    def length(self, phase: str) -> float:
        """Return the length of a phase, in which kills are drawn."""
        return {"start": self.imports + self.start, "work": self.work, "ending": self.ending}[phase]


@dataclass(frozen=True)
class Delivered:
    """A kill that happened."""

    signal: str
    target: str  # whom it really went to
    second: float  # since the command was given
    phase: str  # in which the command was


@dataclass(frozen=True)
class Ended:
    """How a start ended."""

    exit_code: int | None  # negative: the signal that ended it; None: it hung, and was killed
    seconds: float
    changed: float | None  # seconds until the first file was written; None: none was
    finishing: float | None  # seconds until results were put together
    kills: tuple[Delivered, ...]  # in order; all but the last left the command alive
    session: int
    said: str  # its last lines

    @property
    def times(self) -> Times:
        """Length of its phases."""
        changed = self.seconds if self.changed is None else self.changed
        finishing = self.seconds if self.finishing is None else max(changed, self.finishing)
        return Times(changed, finishing - changed, self.seconds - finishing)


def start(
    case: Case,
    folder: Path,
    *,
    log: Path,
    host: Host | None,
    patience: float,
    times: Times | None = None,
    kills: Iterator[Kill] | None = None,
    cluster: RayNodes | None = None,
) -> Ended:
    """Run the command of a case once, in `folder`.

    Args:
        case: names the command.
        folder: of the run; `tmp` in it holds temporary files.
        log: where its output goes.
        host: forks it; None: a fresh interpreter.
        patience: seconds before it counts as hung.
        times: of an undisturbed run, which kills need.
        kills: what happens to it; another one is taken as long as it lives on. None: nothing.
        cluster: where its workers are, if it has them on Ray.
    """
    (folder / TEMPORARY).mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, MARK: str(folder), "TMPDIR": str(folder / TEMPORARY), "OMP_NUM_THREADS": "1"}
    environment |= {} if cluster is None else cluster.environment
    before = _files(folder)
    process: Child | subprocess.Popen[bytes]
    if host is None:
        process = _fresh(case, folder, environment, log=log)
    else:
        process = host.start(case.words, cwd=folder, environment=environment, log=log)
    begun = time.monotonic()
    since: dict[str, float] = {"start": 0.0}  # phase -> seconds until it began
    last = 0.0  # seconds until the last kill
    delivered: list[Delivered] = []
    kill = next(kills, None) if kills is not None else None
    while process.poll() is None and (now := time.monotonic() - begun) < patience:
        if "work" not in since and _files(folder) != before:
            since["work"] = now
        if "work" in since and "ending" not in since and _is_ending(case, folder):
            since["ending"] = now
        if kill is not None and times is not None and now >= _due(kill, since, times, last=last):
            ours = processes_of(str(folder), session=process.pid)
            target = deliver(kill, main=process.pid, everything=ours, cluster=cluster)
            delivered.append(Delivered(kill.signal, target, round(now, 3), list(since)[-1]))
            last = time.monotonic() - begun
            kill = next(kills, None) if kills is not None and target in LIVES_ON else None
        time.sleep(POLL)
    hung = process.poll() is None
    if hung:
        os.killpg(process.pid, signal.SIGKILL)
    while (code := process.poll()) is None:
        time.sleep(POLL)
    return Ended(
        exit_code=None if hung else code,
        seconds=time.monotonic() - begun,
        changed=since.get("work"),
        finishing=since.get("ending"),
        kills=tuple(delivered),
        session=process.pid,
        said="\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]),
    )


def _due(kill: Kill, since: Mapping[str, float], times: Times, *, last: float) -> float:
    """Return after how many seconds to kill; infinity while the phase has not begun."""
    if kill.phase not in since:
        return math.inf
    return max(last, since[kill.phase]) + kill.share * times.length(kill.phase)


def _fresh(case: Case, folder: Path, environment: dict[str, str], *, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "rdvla.cli", *case.words],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=usual_signals,
        )


def leave(folder: Path, ended: Ended, *, cluster: RayNodes | None) -> list[str]:
    """Wait until the processes of a start are gone; return a sentence for each that stayed."""
    left = wait_for_none(str(folder), session=ended.session, seconds=LEAVING)
    return left + ([] if cluster is None else cluster.wait_until_idle(LEAVING))


def _is_ending(case: Case, folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in case.ending)


def _files(folder: Path) -> Files:
    """Return path -> size and time of what a command wrote, without trials, locks and the like."""
    found: Files = {}
    waiting = [str(folder)]
    while waiting:
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting += [entry.path] if entry.name != TEMPORARY else []
                elif ".tmp" not in entry.name and not entry.name.endswith(".lock"):
                    status = entry.stat()
                    found[entry.path] = (status.st_size, status.st_mtime_ns)
    return found
