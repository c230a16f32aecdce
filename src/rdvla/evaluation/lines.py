"""Which results files belong to one line of a report or one side of a comparison, and what people call it.

A label is for people: every policy of `rdvla train` lies in a folder called `policy`. What tells policies
apart is the fingerprint of their weights, or what the caller says by naming files together.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdvla.evaluation.records import ResultsError
from rdvla.evaluation.results import Results, check_alike, combine, differences, load_results
from rdvla.rollout.jobs import Setting

Cell = tuple[str, str, Setting]  # environment, task, setting: what a line holds once


@dataclass(frozen=True)
class Source:
    """Results that a command line names: ``[NAME=]PATH[,PATH ...]``."""

    name: str | None  # None: the label in the files
    paths: tuple[Path, ...]

    @classmethod
    def parse(cls, text: str | Path) -> Source:
        """Read a source; a path that exists wins over any other reading.

        Raises:
            ResultsError: a name or a path is empty.
        """
        text = str(text)
        if Path(text).exists():
            return cls(None, (Path(text),))
        before, equals, behind = text.partition("=")
        name, listed = (before.strip(), behind) if equals else (None, text)
        if name is not None and Path(behind).exists():
            paths = [behind]
        else:
            paths = [part.strip() for part in listed.split(",")]
        if "" in paths or name == "":
            raise ResultsError(f"{text!r}: name one or several runs, with commas between, as NAME=RUN,RUN")
        return cls(name, tuple(map(Path, paths)))


def load_side(text: str | Path) -> Results:
    """Load one side of a comparison, see `Source`; runs that are named together count as one.

    Raises:
        ResultsError: the text names no run, a file breaks the schema, or two runs cannot be one side.
    """
    source = Source.parse(text)
    loaded = [load_results(path) for path in source.paths]
    labels = dict.fromkeys(label for results in loaded for label in results.labels)
    name = source.name or " + ".join(labels)
    return combine([_called(results, dict.fromkeys(results.labels, name)) for results in loaded])


def load_lines(sources: Sequence[str | Path]) -> list[Results]:
    """Load the results that a report shows, with a label of its own for each line.

    Files are one line if the caller named them together, or if they hold other episodes of the same weights,
    played alike. All others are lines of their own, even if their labels are the same.

    Raises:
        ResultsError: a source names no run, a file breaks the schema, or files that are named together hold
            the same episodes or were not played alike.
    """
    lines: list[_Line] = []
    loaded: list[tuple[Results, dict[str, _Line]]] = []
    for source in map(Source.parse, sources):
        together = _Line(source.name or "", named=True)
        for path in source.paths:
            results = load_results(path)
            own: dict[str, _Line] = {}
            for label in results.labels:
                if source.name is not None or len(source.paths) > 1:
                    line = together
                else:
                    line = _same_weights(lines, results, label) or _Line(label)
                line.add(results, label, path)
                own[label] = line
                if all(line is not other for other in lines):
                    lines.append(line)
            loaded.append((results, own))
    _tell_apart(lines)
    return [_called(results, {label: line.label for label, line in own.items()}) for results, own in loaded]


@dataclass
class _Line:
    """A policy as a report shows it."""

    label: str  # empty: the label of its first file
    named: bool = False  # by the caller, who decides what belongs to it
    cells: dict[Cell, Path] = field(default_factory=dict)
    files: list[Results] = field(default_factory=list)

    def add(self, results: Results, label: str, path: Path) -> None:
        """Add a file's rows of a label; a line holds what was played alike."""
        for other in self.files:
            check_alike(other, results)
        for cell in _cells(results, label):
            env, task, setting = cell
            if cell in self.cells:
                raise ResultsError(
                    f"{self.cells[cell]} and {path} both hold {task} of {env} at {setting.describe()}: they "
                    "cannot be one line; name them apart, or leave one of them out"
                )
            self.cells[cell] = path
        self.files.append(results)
        self.label = self.label or label

    @property
    def place(self) -> str:
        """What distinguishes it from another of the same label: its first run directory, or file."""
        path = next(iter(self.cells.values())).resolve()
        return path.parent.name if path.name == "results.json" else path.name.removesuffix(".json")


def _same_weights(lines: Sequence[_Line], results: Results, label: str) -> _Line | None:
    """The line of the same weights that these episodes add to, if there is one."""
    cells = _cells(results, label)
    for line in lines:
        same = results.fingerprint is not None and all(
            other.fingerprint == results.fingerprint
            and (other.preparation == results.preparation or None in (other.preparation, results.preparation))
            and not any(differences(other, results))
            for other in line.files
        )
        if same and not line.named and line.cells.keys().isdisjoint(cells):
            return line
    return None


def _cells(results: Results, label: str) -> list[Cell]:
    return [(row.env, row.task, row.setting) for row in results.rows if row.policy == label]


def _tell_apart(lines: Sequence[_Line]) -> None:
    """Give lines of the same label different ones: with the place of their files, and a number if need be."""
    shared = {label for label, count in Counter(line.label for line in lines).items() if count > 1}
    for line in lines:
        if line.label in shared:
            line.label = f"{line.label} ({line.place})"
    taken: set[str] = set()
    for line in lines:
        label, number = line.label, 1
        while line.label in taken:
            number += 1
            line.label = f"{label} {number}"
        taken.add(line.label)


def _called(results: Results, names: dict[str, str]) -> Results:
    """The same results under other labels."""
    return dataclasses.replace(
        results,
        rows=[dataclasses.replace(row, policy=names[row.policy]) for row in results.rows],
        episodes=[
            dataclasses.replace(each, policy=names.get(each.policy, each.policy)) for each in results.episodes
        ],
    )
