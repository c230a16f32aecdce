"""The log: a JSON line per start of a command and per finished run. A benchmark goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rdvla.files import write_atomically

Line = dict[str, Any]


class Record:
    """Lines of `log.jsonl`; each is on the disk before `add` returns.

    Lines of a run that did not end are dropped when a benchmark goes on: that run is done again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = _finished(_read(path))
        with write_atomically(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def add(self, line: Line) -> None:
        """Append a line, which needs `kind` and `case`; `start` and `run` lines also `run`."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, case: str, kind: str) -> list[Line]:
        """Return the lines of a kind: reference, start or run."""
        return [line for line in self.lines if line["case"] == case and line["kind"] == kind]

    def kills(self, case: str) -> int:
        """Return how many kills runs of a case got."""
        return sum(len(line["kills"]) for line in self.of(case, "start"))


def _read(path: Path) -> list[Line]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
    return [json.loads(line) for line in whole.splitlines()]


def _finished(lines: list[Line]) -> list[Line]:
    ended = {(line["case"], line["run"]) for line in lines if line["kind"] == "run"}
    return [line for line in lines if line["kind"] != "start" or (line["case"], line["run"]) in ended]
