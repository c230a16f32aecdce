"""The log: a JSON line per start of a command and per finished run. A benchmark goes on from it."""

from __future__ import annotations

from benchmarks.log import Line, Log


class Record(Log):
    """Lines of `log.jsonl`, of the kinds reference, undisturbed, start and run.

    Lines of a run that did not end are dropped when a benchmark goes on: that run is done again.
    """

    def kept(self, lines: list[Line]) -> list[Line]:
        """Drop starts whose run did not end."""
        ended = {(line["case"], line["run"]) for line in lines if line["kind"] == "run"}
        return [line for line in lines if line["kind"] != "start" or (line["case"], line["run"]) in ended]

    def kills(self, case: str) -> int:
        """Return how many kills runs of a case got."""
        return sum(len(line["kills"]) for line in self.of(case, "start"))
