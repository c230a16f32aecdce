"""The table of a log."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.faults.record import Record

TITLES = (
    "case",
    "kills",
    "in start, work, ending",
    "runs",
    "other result",
    "a kill costs, s",
    "undisturbed, s",
)


def row(record: Record, case: str) -> dict[str, Any]:
    """Sum up a case."""
    kills = [kill for line in record.of(case, "start") for kill in line["kills"]]
    runs = record.of(case, "run")
    undisturbed = statistics.mean(line["seconds"] for line in record.of(case, "undisturbed"))
    return {
        "case": case,
        "kills": len(kills),
        "phases": dict(Counter(kill["phase"] for kill in kills)),
        "signals": dict(Counter(f"{kill['signal']} to {kill['target']}" for kill in kills)),
        "runs": len(runs),
        "wrong": [f"run {line['run']}: {said}" for line in runs for said in line["wrong"]],
        "wrong_runs": sum(bool(line["wrong"]) for line in runs),
        # What all starts took beyond an undisturbed run for each result, for each kill.
        "cost_seconds": sum(line["seconds"] - undisturbed for line in runs) / max(len(kills), 1),
        "undisturbed_seconds": undisturbed,
    }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Format rows for a document."""
    yield f"| {' | '.join(TITLES)} |"
    yield "|" + "---|" * len(TITLES)
    for each in rows:
        phases = ", ".join(str(each["phases"].get(name, 0)) for name in ("start", "work", "ending"))
        cells = [
            each["case"],
            each["kills"],
            phases,
            each["runs"],
            each["wrong_runs"],
            f"{each['cost_seconds']:.1f}",
        ]
        yield f"| {' | '.join(map(str, cells))} | {each['undisturbed_seconds']:.1f} |"
