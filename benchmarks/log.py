"""The log of a benchmark that can be interrupted: a JSON line per thing done, which is not done again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from rdvla.files import write_atomically

Line = dict[str, Any]


class Log:
    """Lines of a file, each with `kind` and `case`; each is on the disk before `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = self.kept(read_lines(path) if path.exists() else [])
        with write_atomically(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def kept(self, lines: list[Line]) -> list[Line]:
        """Return the lines that stay when a benchmark goes on: all."""
        return lines

    def add(self, line: Line) -> None:
        """Append a line."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, case: str, kind: str) -> list[Line]:
        """Return the lines of a kind about a case."""
        return [line for line in self.lines if line["case"] == case and line["kind"] == kind]


def read_lines(path: Path) -> list[Line]:
    """Read a log, compressed or not, without a last line that a kill has cut."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]
