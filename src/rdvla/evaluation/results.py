"""`results.json`: the outcome of an evaluation, in a versioned schema (docs/results-schema.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdvla.evaluation.aggregate import Summary, suite_summaries, summaries
from rdvla.evaluation.records import Episode, ResultsError, Row
from rdvla.evaluation.schema import build, episode_from_dict
from rdvla.files import read_json, write_json
from rdvla.rollout.jobs import Setting

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, SCHEMA_VERSION)
OLD_RENDERING = "fast"  # of files that do not name it


@dataclass(frozen=True)
class Results:
    """Everything that an evaluation found."""

    rows: list[Row]
    episodes: list[Episode]
    meta: dict[str, Any]
    folder: Path = field(default=Path(), compare=False)  # where video paths start; not in the file

    @property
    def step_limits(self) -> dict[str, int]:
        """Steps after which an episode ended, by environment; empty where the file does not say."""
        config = self.meta.get("config", {})
        if "protocol" in self.meta:
            protocol = self.meta["protocol"]
            return {env: one["max_steps"] for env, one in protocol.items() if "max_steps" in one}
        known = "env" in config and "max_steps" in config  # schema 1: one environment
        return {config["env"]: config["max_steps"]} if known else {}

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        """What every episode was played under, by environment: step limit, rendering; not which tasks."""
        rendering = self.meta.get("config", {}).get("rendering", OLD_RENDERING)
        limits, protocol = self.step_limits, self.meta.get("protocol", {})
        found: dict[str, dict[str, Any]] = {}
        for env in dict.fromkeys(one.env for one in self.episodes):
            limit = {"max_steps": limits[env]} if env in limits else {}
            found[env] = {"rendering": rendering, **limit, **protocol.get(env, {})}
            found[env].pop("tasks", None)
        return found

    def write(self, path: Path) -> None:
        """Write `results.json`, atomically."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "summary": [_summary_entry(one) for one in [*suite_summaries(self.rows), *summaries(self.rows)]],
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "episodes": [dataclasses.asdict(episode) for episode in self.episodes],
            "meta": self.meta,
        }
        write_json(path, content)


def load_results(path: Path | str) -> Results:
    """Read and check a results file (or the one in a run directory), of this schema or the one before.

    Raises:
        ResultsError: the content does not follow the schema.
        RDVLAError: the file is missing or is no JSON.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    content = read_json(path)
    if not isinstance(content, dict) or "schema_version" not in content:
        raise ResultsError(f"{path} is not a results file of rdvla: it names no schema_version")
    if content["schema_version"] not in READABLE_VERSIONS:
        raise ResultsError(
            f"{path} has schema_version {content['schema_version']!r}; "
            f"this version of rdvla reads {' and '.join(map(str, READABLE_VERSIONS))}"
        )
    for name, kind in (("rows", list), ("episodes", list), ("meta", dict)):
        if not isinstance(content.get(name), kind):
            raise ResultsError(f"{path}: '{name}' must be a {'list' if kind is list else 'mapping'}")
    rows = [build(Row, row, f"{path}: rows[{i}]") for i, row in enumerate(content["rows"])]
    episodes = [episode_from_dict(one, f"{path}: episodes[{i}]") for i, one in enumerate(content["episodes"])]
    for i, row in enumerate(rows):
        if not 0 <= row.successes <= row.episodes:
            counts = f"{row.successes} successes in {row.episodes} episodes"
            raise ResultsError(f"{path}: rows[{i}] counts {counts}")
    return Results(rows=rows, episodes=episodes, meta=content["meta"], folder=path.parent)


def merge(results: Sequence[Results]) -> tuple[list[Row], list[Episode]]:
    """Rows and episodes of several results.

    Raises:
        ResultsError: two of them hold the same policy label, environment, task and setting.
    """
    rows = [row for one in results for row in one.rows]
    seen: set[tuple[str, str, str, Setting]] = set()
    for row in rows:
        key = (row.policy, row.env, row.task, row.setting)
        if key in seen:
            raise ResultsError(
                f"two results hold policy '{row.policy}' on {row.task} at {row.setting.describe()}: "
                "evaluate with another label, or leave one of the files out"
            )
        seen.add(key)
    return rows, [episode for one in results for episode in one.episodes]


def join(results: Sequence[Results]) -> Results:
    """One evaluation that was done in parts, such as one for each environment; not meant to be written.

    Raises:
        ResultsError: as `merge` and `check_alike`.
    """
    if len(results) == 1:
        return results[0]
    rows, episodes = merge(results)
    protocol: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(results):
        for earlier in results[:number]:
            check_alike(earlier, one)
        for env, conditions in one.conditions.items():
            protocol[env] = {**protocol.get(env, {}), **conditions}
    return Results(rows=rows, episodes=episodes, meta={"protocol": protocol})


def check_alike(first: Results, second: Results) -> None:
    """Check that both played the environments that they share under the same conditions, as far as they say.

    Raises:
        ResultsError: step limit, rendering or another part of the protocol differs. Tasks may differ.
    """
    theirs = second.conditions
    for env, ours in first.conditions.items():
        for name, value in ours.items():
            other = theirs.get(env, {}).get(name, value)
            if other != value:
                raise ResultsError(
                    f"one evaluation has {name} {value!r} in {env}, the other {other!r}: "
                    f"evaluate both with the same {name} to compare or join them"
                )


def _summary_entry(one: Summary) -> dict[str, Any]:
    return {
        "env": one.env,
        "policy": one.policy,
        **dataclasses.asdict(one.setting),
        "tasks": len(one.rows),
        "episodes": one.episodes,
        "successes": one.successes,
        "errors": one.errors,
        "success": one.success,
        "success_low": one.interval.low,
        "success_high": one.interval.high,
        "mean_depth": one.mean_depth,
        "mean_executed": one.mean_executed,
        "query_ms": one.query_ms,
    }
