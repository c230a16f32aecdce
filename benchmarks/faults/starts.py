"""One start of a command: runs it, says in which phase it is, and kills it if told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.cases import Case
from benchmarks.faults.host import Host
from benchmarks.faults.kills import Kill, deliver
from benchmarks.faults.processes import MARK, processes_of, wait_for_none, workers_of

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
class Ended:
    """How a start ended."""

    exit_code: int | None  # negative: the signal that ended it; None: it hung, and was killed
    seconds: float
    changed: float | None  # seconds until the first file was written; None: none was
    finishing: float | None  # seconds until results were put together
    killed_after: float | None  # seconds; None: it ended before its time came
    phase: str | None  # in which it was killed
    target: str | None
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
    kill: Kill | None,
    times: Times | None,
    patience: float,
) -> Ended:
    """Run the command of a case once, in `folder`.

    Args:
        case: names the command.
        folder: of the run; `tmp` in it holds temporary files.
        log: where its output goes.
        host: forks it; None: a fresh interpreter.
        kill: what happens to it; None: nothing.
        times: of an undisturbed run, which a kill needs.
        patience: seconds before it counts as hung.
    """
    (folder / TEMPORARY).mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    before = _files(folder)
    environment = {**os.environ, MARK: str(folder), "TMPDIR": str(folder / TEMPORARY), "OMP_NUM_THREADS": "1"}
    process = (
        _fresh(case, folder, environment, log=log)
        if host is None
        else host.start(case.words, cwd=folder, environment=environment, log=log)
    )
    begun = time.monotonic()
    changed = finishing = killed_after = None
    phase, killed_in, target = "start", None, None
    while process.poll() is None and (now := time.monotonic() - begun) < patience:
        if changed is None and _files(folder) != before:
            changed, phase = now, "work"
        if changed is not None and finishing is None and _is_ending(case, folder):
            finishing, phase = now, "ending"
        if kill is not None and killed_after is None and times is not None:
            since = {"start": 0.0, "work": changed, "ending": finishing}[kill.phase]
            if since is not None and now >= since + kill.share * times.length(kill.phase):
                ours = processes_of(str(folder), session=process.pid)
                workers = [worker.pid for worker in workers_of(ours, main=process.pid)]
                target = deliver(kill, main=process.pid, everything=ours, workers=workers)
                killed_after, killed_in = now, phase
        time.sleep(POLL)
    hung = process.poll() is None
    if hung:
        os.killpg(process.pid, signal.SIGKILL)
    while (code := process.poll()) is None:
        time.sleep(POLL)
    return Ended(
        exit_code=None if hung else code,
        seconds=time.monotonic() - begun,
        changed=changed,
        finishing=finishing,
        killed_after=killed_after,
        phase=killed_in,
        target=target,
        session=process.pid,
        said="\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]),
    )


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
        )


def leave(folder: Path, ended: Ended) -> list[str]:
    """Wait until the processes of a start are gone; return a sentence for each that stayed."""
    return wait_for_none(str(folder), session=ended.session, seconds=LEAVING)


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
