"""Runs of a case: undisturbed for the reference, and killed again and again until they end by themselves."""

from __future__ import annotations

import dataclasses
import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import SETUP, Case, write_setup
from benchmarks.faults.cluster import RayNodes
from benchmarks.faults.comparison import contents, differences
from benchmarks.faults.host import Host
from benchmarks.faults.kills import Kill, draw
from benchmarks.faults.processes import left_in_shared_memory, shared_memory
from benchmarks.faults.record import Record
from benchmarks.faults.starts import LEAVING, Ended, Times, leave, start
from rdvla.errors import RDVLAError

MOST_STARTS = 60  # of a run
MOST_FAILURES = 3  # starts in a row that fail without a kill
BASELINE = 8  # runs after which an undisturbed one is timed again
PATIENCE = 20.0  # times the length of an undisturbed run, and two minutes more


class Benchmark:
    """Runs cases below a folder; what is in its log is not done again."""

    def __init__(self, folder: Path, *, seed: int, host: Host, cluster: RayNodes | None = None) -> None:
        self.folder = folder.resolve()
        self.seed = seed
        self.host = host
        self.cluster = cluster
        self.record = Record(self.folder / "log.jsonl")

    def prepare(self, cases: dict[str, Case]) -> None:
        """Do what the named cases read, undisturbed, below `setup`."""
        write_setup(self.folder / SETUP)
        for name, case in cases.items():
            folder = self.folder / SETUP / name
            if not (folder / "done").exists():
                self._undisturbed(case, folder, host=self.host)
                (folder / "done").touch()

    def measure(self, case: Case) -> Times:
        """Return how long an undisturbed run takes, after checking that two of them leave the same."""
        known = self.record.of(case.name, "reference")
        if not known:
            # The first as users start it, so kills in its imports can be drawn; the others skip these.
            fresh = self._undisturbed(case, self.folder / case.name / "reference", host=None)
            again = self.folder / case.name / "again"
            forked = self._undisturbed(case, again, host=self.host)
            found = differences(self._expected(case), contents(again))
            if found:
                raise RDVLAError(f"two undisturbed runs of {case.name} differ: {'; '.join(found)}")
            shutil.rmtree(again)
            times = dataclasses.replace(forked.times, imports=fresh.times.start - forked.times.start)
            self.record.add({"kind": "reference", "case": case.name, "times": dataclasses.asdict(times)})
        return Times(**self.record.of(case.name, "reference")[0]["times"])

    def disturb(self, case: Case, times: Times, *, kills: int) -> None:
        """Kill runs of a case until there were `kills`."""
        expected = self._expected(case)
        while (done := self.record.kills(case.name)) < kills:
            known = {line["run"] for line in self.record.of(case.name, "run")}
            number = next(number for number in itertools.count() if number not in known)
            if number % BASELINE == 0:
                times = dataclasses.replace(self._measure_again(case), imports=times.imports)
            found = self._run(case, times, number=number, left=kills - done, expected=expected)
            print(
                f"{case.name}: {self.record.kills(case.name)} of {kills} kills, run {number}: "
                f"{'; '.join(found) or 'the same result'}",
                flush=True,
            )

    def _measure_again(self, case: Case) -> Times:
        """Return the times of an undisturbed run under the load of by now, after checking its result."""
        folder = self.folder / case.name / "again"
        ended = self._undisturbed(case, folder, host=self.host)
        found = differences(self._expected(case), contents(folder))
        if found:
            raise RDVLAError(f"undisturbed runs of {case.name} differ: {'; '.join(found)}")
        shutil.rmtree(folder)
        self.record.add({"kind": "undisturbed", "case": case.name, "seconds": round(ended.seconds, 3)})
        return ended.times

    def _run(
        self, case: Case, times: Times, *, number: int, left: int, expected: dict[str, Any]
    ) -> list[str]:
        """Start a run until it ends, with up to `left` kills; return what is wrong with its result."""
        rng = random.Random(f"{self.seed} {case.name} {number}")
        folder = self.folder / case.name / f"run-{number:03d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        memory = shared_memory()
        wrong: list[str] = []
        cluster = self._cluster(case)
        failures, ended = 0, None
        for count in range(MOST_STARTS):
            drawn: list[Kill] = []
            kills = _draws(rng, drawn, at_most=left, on_ray=cluster is not None)
            first = next(kills, None)
            ended = start(
                case,
                folder,
                log=self._log(case, number, count),
                host=None if first is not None and first.phase == "start" else self.host,
                patience=PATIENCE * times.total + 120,
                times=times,
                kills=itertools.chain([] if first is None else [first], kills),
                cluster=cluster,
            )
            left -= len(ended.kills)
            if ended.exit_code == 0 or not ended.kills or not drawn[-1].at_once:
                wrong += leave(folder, ended, cluster=cluster)
            self.record.add(_line(case, number, count, ended))
            failures = failures + 1 if ended.exit_code != 0 and not ended.kills else 0
            if ended.exit_code == 0 or failures == MOST_FAILURES:
                break
            wrong += [] if ended.exit_code is not None else [f"start {count} hung"]
        assert ended is not None
        if ended.exit_code == 0:
            wrong += differences(expected, contents(folder))
        else:
            wrong.append(f"cannot be finished: {ended.said}")
        wrong += left_in_shared_memory(shared_memory() - memory, seconds=LEAVING)
        if not wrong:
            shutil.rmtree(folder)
        starts = [line for line in self.record.of(case.name, "start") if line["run"] == number]
        self.record.add(
            {
                "kind": "run",
                "case": case.name,
                "run": number,
                "kills": sum(len(line["kills"]) for line in starts),
                "seconds": round(sum(line["seconds"] for line in starts), 3),
                "wrong": wrong,
            }
        )
        return wrong

    def _undisturbed(self, case: Case, folder: Path, *, host: Host | None) -> Ended:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log = self.folder / "logs" / case.name / f"{folder.name}.txt"
        cluster = self._cluster(case)
        ended = start(case, folder, log=log, host=host, patience=1200, cluster=cluster)
        left = leave(folder, ended, cluster=cluster)
        if ended.exit_code != 0 or left:
            raise RDVLAError(f"an undisturbed {case.name} failed ({log}): {ended.said} {' '.join(left)}")
        return ended

    def _cluster(self, case: Case) -> RayNodes | None:
        return self.cluster if case.where == "ray" else None

    def _expected(self, case: Case) -> dict[str, Any]:
        return contents(self.folder / case.name / "reference")

    def _log(self, case: Case, number: int, count: int) -> Path:
        return self.folder / "logs" / case.name / f"run-{number:03d}-start-{count:02d}.txt"


def _draws(rng: random.Random, drawn: list[Kill], *, at_most: int, on_ray: bool) -> Iterator[Kill]:
    """Draw kills, and append each to `drawn`."""
    for _ in range(at_most):
        drawn.append(draw(rng, on_ray=on_ray))
        yield drawn[-1]


def _line(case: Case, number: int, count: int, ended: Ended) -> dict[str, Any]:
    return {
        "kind": "start",
        "case": case.name,
        "run": number,
        "start": count,
        "kills": [dataclasses.asdict(kill) for kill in ended.kills],
        "exit_code": ended.exit_code,
        "seconds": round(ended.seconds, 3),
        "said": ended.said,
    }
