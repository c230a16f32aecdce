"""`results.json`: the outcome of an evaluation, in a versioned schema (docs/results-schema.md)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdvla.evaluation.records import Episode, ResultsError, Row, build
from rdvla.evaluation.summaries import Summary, suite_summaries, summaries
from rdvla.evaluation.upgrade import READABLE_VERSIONS, SCHEMA_VERSION, upgrade_results
from rdvla.files import CHECKSUM, json_checksum, write_json
from rdvla.policy.records import read_results
from rdvla.rollout.jobs import Setting

OLD_RENDERING = "fast"  # of files that do not name it


@dataclass(frozen=True)
class Results:
    """Everything that an evaluation found."""

    rows: list[Row]
    episodes: list[Episode]
    meta: dict[str, Any]
    folder: Path = field(default=Path(), compare=False)  # where video paths start; not in the file

    @property
    def labels(self) -> list[str]:
        """What people call the policy; several only in files that rdvla did not write."""
        return list(dict.fromkeys(row.policy for row in self.rows))

    @property
    def fingerprint(self) -> str | None:
        """Of the policy's weights, which tells policies apart; None if the file does not say."""
        found = self.meta.get("policy", {}).get("fingerprint")
        return None if found is None else str(found)

    @property
    def preparation(self) -> str | None:
        """Hash of the policy's units and of how it fits images; None if the file does not say."""
        found = self.meta.get("policy", {}).get("preparation")
        return None if found is None else str(found)

    @property
    def query_ms(self) -> dict[str, float]:
        """Milliseconds per query by stop rule, measured in turn after the episodes; empty if not at all."""
        return dict((self.meta.get("timing") or {}).get("query_ms", {}))

    @property
    def timed_elsewhere(self) -> bool:
        """Whether queries were timed through a cluster, on a machine that `hardware` does not describe."""
        return bool((self.meta.get("timing") or {}).get("elsewhere"))

    @property
    def step_limits(self) -> dict[str, int]:
        """Steps after which an episode ended, by environment; empty if the file does not say."""
        protocol = self.meta.get("protocol", {})
        return {env: entry["max_steps"] for env, entry in protocol.items() if "max_steps" in entry}

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        """What every episode was played under, by environment: step limit, rendering; not which tasks."""
        rendering = self.meta.get("config", {}).get("rendering", OLD_RENDERING)
        protocol = self.meta.get("protocol", {})
        found: dict[str, dict[str, Any]] = {}
        for env in dict.fromkeys(episode.env for episode in self.episodes):
            found[env] = {"rendering": rendering, **protocol.get(env, {})}
            found[env].pop("tasks", None)
        return found

    def write(self, path: Path) -> None:
        """Write `results.json`, atomically."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "summary": [
                _summary_entry(summary, self.query_ms)
                for summary in [*suite_summaries(self.rows), *summaries(self.rows)]
            ],
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "episodes": [dataclasses.asdict(episode) for episode in self.episodes],
            "meta": self.meta,
        }
        content = json.loads(json.dumps(content, allow_nan=False))
        write_json(path, content | {CHECKSUM: json_checksum(content)})


def load_results(path: Path | str) -> Results:
    """Read and check a results file (or the file in a run directory), of this or an older schema.

    Raises:
        ResultsError: the content does not follow the schema.
        RDVLAError: the file is missing, is no JSON, or is not what was written.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    content = read_results(path)
    if not isinstance(content, dict) or "schema_version" not in content:
        raise ResultsError(f"{path} is not a results file of rdvla: it names no schema_version")
    if content["schema_version"] not in READABLE_VERSIONS:
        raise ResultsError(
            f"{path} has schema_version {content['schema_version']!r}; "
            f"this version of rdvla reads {', '.join(map(str, READABLE_VERSIONS))}"
        )
    content = upgrade_results(content)
    for name, kind in (("rows", list), ("episodes", list), ("meta", dict)):
        if not isinstance(content.get(name), kind):
            raise ResultsError(f"{path}: '{name}' must be a {'list' if kind is list else 'mapping'}")
    rows = [build(Row, row, f"{path}: rows[{i}]") for i, row in enumerate(content["rows"])]
    episodes = [
        build(Episode, episode, f"{path}: episodes[{i}]") for i, episode in enumerate(content["episodes"])
    ]
    for i, row in enumerate(rows):
        if not 0 <= row.successes <= row.episodes:
            counts = f"{row.successes} successes in {row.episodes} episodes"
            raise ResultsError(f"{path}: rows[{i}] counts {counts}")
    return Results(rows=rows, episodes=episodes, meta=content["meta"], folder=path.parent)


def combine(results: Sequence[Results]) -> Results:
    """Return one evaluation from several runs, such as one per environment; not meant to be written.

    Raises:
        ResultsError: two of them hold the same task and setting, or were not played alike (`check_alike`).
    """
    if len(results) == 1:
        return results[0]
    seen: set[tuple[str, str, Setting]] = set()
    protocol: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(results):
        for earlier in results[:number]:
            check_alike(earlier, each)
        for row in each.rows:
            if (row.env, row.task, row.setting) in seen:
                raise ResultsError(
                    f"two of the results both hold {row.task} of {row.env} at {row.setting.describe()}: "
                    "leave one of them out"
                )
        seen |= {(row.env, row.task, row.setting) for row in each.rows}
        for env, conditions in each.conditions.items():
            protocol[env] = {**protocol.get(env, {}), **conditions}
    return Results(
        rows=[row for each in results for row in each.rows],
        episodes=[episode for each in results for episode in each.episodes],
        meta={"protocol": protocol},
    )


def differences(first: Results, second: Results) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (environment, condition, its value in the first, in the second) where both say another."""
    theirs = second.conditions
    for env, ours in first.conditions.items():
        for name, value in ours.items():
            other = theirs.get(env, {}).get(name, value)
            if other != value:
                yield env, name, value, other


def check_alike(first: Results, second: Results) -> None:
    """Check that both played the environments that they share under the same conditions, as far as they say.

    Raises:
        ResultsError: step limit, rendering or another entry of the protocol differs. Tasks may differ.
    """
    for env, name, value, other in differences(first, second):
        raise ResultsError(
            f"one evaluation has {name} {value!r} in {env}, the other {other!r}: "
            f"evaluate both with the same {name} to compare or combine them"
        )


def _summary_entry(summary: Summary, query_ms: Mapping[str, float]) -> dict[str, Any]:
    return {
        "env": summary.env,
        "policy": summary.policy,
        **dataclasses.asdict(summary.setting),
        "tasks": len(summary.rows),
        "episodes": summary.episodes,
        "successes": summary.successes,
        "errors": summary.errors,
        "success": summary.success,
        "success_low": summary.interval.low,
        "success_high": summary.interval.high,
        "mean_depth": summary.mean_depth,
        "mean_executed": summary.mean_executed,
        "query_ms": query_ms.get(summary.setting.stop),
    }
