"""Print what `benchmarks.libero_experts` measured as Markdown tables, and merge its files.

`python -m benchmarks.libero_experts_tables runs/bench/*.json --output docs/experts/libero_seed_1.json`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rdvla.evaluation.statistics import wilson_interval
from rdvla.files import read_json, write_atomically

Row = dict[str, Any]
KEPT = ("env", "task", "max_steps", "steps", "failed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write the merged file if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="outputs of benchmarks.libero_experts")
    parser.add_argument("--output", type=Path, help="merged file")
    options = parser.parse_args(arguments)
    settings, rows = merge([read_json(path) for path in options.files])
    if options.output is not None:
        with write_atomically(options.output) as temporary:
            temporary.write_text(compact(settings, rows), encoding="utf-8")
    print("\n".join([*suites(rows), "", *imperfect(rows)]))


def merge(measured: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[Row]]:
    """Return the common settings and all rows of several measurements."""
    settings = [{key: value for key, value in one.items() if key != "tasks"} for one in measured]
    if any(one != settings[0] for one in settings):
        raise SystemExit(f"measured with different settings: {settings}")
    return settings[0], [row for one in measured for row in one["tasks"]]


def compact(settings: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return JSON with one line a task, without what follows from the rest."""
    lines = [json.dumps({key: row[key] for key in KEPT}, separators=(",", ":")) for row in rows]
    head = json.dumps(settings)[1:-1]
    return "{" + head + ', "tasks": [\n' + ",\n".join(lines) + "\n]}\n"


def suites(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table with one line a suite."""
    yield "| suite | solved | 95% interval | tasks solved always / sometimes / never | mean steps |"
    yield "|---|---|---|---|---|"
    for env in dict.fromkeys(row["env"] for row in rows):
        own = [row for row in rows if row["env"] == env]
        solved, run = sum(map(_solved, own)), sum(map(_episodes, own))
        always = sum(not row["failed"] for row in own)
        never = sum(not row["steps"] for row in own)
        kinds = f"{always} / {len(own) - always - never} / {never}"
        yield f"| {env.removeprefix('libero_')} | {_share(solved, run)} | {kinds} | {_mean_steps(own)} |"


def imperfect(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of the tasks that were not always solved."""
    yield "| suite | task | solved | 95% interval | mean steps |"
    yield "|---|---|---|---|---|"
    for row in rows:
        if row["failed"]:
            suite = row["env"].removeprefix("libero_")
            share = _share(_solved(row), _episodes(row))
            yield f"| {suite} | `{row['task']}` | {share} | {_mean_steps([row])} |"


def _share(solved: int, run: int) -> str:
    interval = wilson_interval(solved, run)
    return f"{solved} of {run} | {100 * interval.low:.0f} to {100 * interval.high:.0f}%"


def _mean_steps(rows: Sequence[Row]) -> str:
    steps = [step for row in rows for step in row["steps"]]
    return f"{mean(steps):.0f}" if steps else "-"


def _solved(row: Row) -> int:
    return len(row["steps"])


def _episodes(row: Row) -> int:
    return len(row["steps"]) + len(row["failed"])


if __name__ == "__main__":
    main()
