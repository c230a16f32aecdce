"""`results.json`: the outcome of an evaluation, in a versioned schema (docs/results-schema.md)."""

from __future__ import annotations

import dataclasses
import statistics
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdvla.errors import RDVLAError
from rdvla.evaluation.setting import Setting
from rdvla.evaluation.statistics import wilson_interval
from rdvla.files import read_json, write_json

SCHEMA_VERSION = 1


class ResultsError(RDVLAError, ValueError):
    """A results file does not follow the schema; the message names the file and the place."""


@dataclass(frozen=True)
class EpisodeError:
    """The exception that ended an episode."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Episode:
    """One episode under one setting."""

    env: str
    task: str
    policy: str
    rule: str
    depth: int | None
    execution: str
    seed: int
    success: bool | None  # None when an exception ended the episode
    steps: int
    depths: list[int]  # iterations of each query
    executed: list[int]  # actions executed after each query
    query_ms: float | None  # mean over its queries: time of the predict call / observations in that call
    video: str | None = None  # path relative to the results file
    error: EpisodeError | None = None

    @property
    def setting(self) -> Setting:
        """How the policy was run."""
        return Setting(rule=self.rule, depth=self.depth, execution=self.execution)


@dataclass(frozen=True)
class Row:
    """One task under one setting."""

    env: str
    task: str
    policy: str
    rule: str
    depth: int | None  # None for adaptive rules
    execution: str
    episodes: int  # that ended by themselves; `errors` are apart
    successes: int
    errors: int
    success_low: float  # Wilson 95%
    success_high: float
    mean_depth: float | None  # iterations per query; None where no episode ended by itself
    mean_executed: float | None  # actions per query
    mean_steps: float | None  # environment steps of an episode
    query_ms: float | None

    @property
    def setting(self) -> Setting:
        """How the policy was run."""
        return Setting(rule=self.rule, depth=self.depth, execution=self.execution)

    @property
    def success(self) -> float | None:
        """Fraction of episodes with success; None when there is no episode."""
        return self.successes / self.episodes if self.episodes else None


@dataclass(frozen=True)
class Results:
    """Everything that an evaluation found."""

    rows: list[Row]
    episodes: list[Episode]
    meta: dict[str, Any]
    schema_version: int = SCHEMA_VERSION
    folder: Path = field(default=Path(), compare=False)  # where video paths start; not in the file

    def write(self, path: Path) -> None:
        """Write `results.json`, atomically."""
        content = dataclasses.asdict(self)
        del content["folder"]
        version = content.pop("schema_version")
        write_json(path, {"schema_version": version, **content})


def load_results(path: Path | str) -> Results:
    """Read and check a results file (or the one in a run directory).

    Raises:
        ResultsError: the content does not follow the schema.
        RDVLAError: the file is missing or is no JSON.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    content = read_json(path)
    if not isinstance(content, dict) or "schema_version" not in content:
        raise ResultsError(f"{path} is not a results file of rdvla: it names no schema_version")
    if content["schema_version"] != SCHEMA_VERSION:
        raise ResultsError(
            f"{path} has schema_version {content['schema_version']!r}; "
            f"this version of rdvla reads {SCHEMA_VERSION}"
        )
    for name, kind in (("rows", list), ("episodes", list), ("meta", dict)):
        if not isinstance(content.get(name), kind):
            raise ResultsError(f"{path}: '{name}' must be a {'list' if kind is list else 'mapping'}")
    rows = [_build(Row, row, f"{path}: rows[{i}]") for i, row in enumerate(content["rows"])]
    episodes = [_build(Episode, one, f"{path}: episodes[{i}]") for i, one in enumerate(content["episodes"])]
    for i, row in enumerate(rows):
        if not 0 <= row.successes <= row.episodes:
            counts = f"{row.successes} successes in {row.episodes} episodes"
            raise ResultsError(f"{path}: rows[{i}] counts {counts}")
    return Results(rows=rows, episodes=episodes, meta=content["meta"], folder=path.parent)


def episode_from_dict(values: Any, place: str) -> Episode:
    """Check and build one episode; raises `ResultsError` naming `place`."""
    return _build(Episode, values, place)


def summarise(episodes: Iterable[Episode]) -> list[Row]:
    """One row for each task and setting, in the order of first appearance."""
    groups: dict[tuple[Any, ...], list[Episode]] = {}
    for episode in episodes:
        key = (episode.policy, episode.env, episode.task, episode.setting)
        groups.setdefault(key, []).append(episode)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Episode]) -> Row:
    first, ended = group[0], [episode for episode in group if episode.error is None]
    successes = sum(bool(episode.success) for episode in ended)
    interval = wilson_interval(successes, len(ended))
    return Row(
        env=first.env,
        task=first.task,
        policy=first.policy,
        rule=first.rule,
        depth=first.depth,
        execution=first.execution,
        episodes=len(ended),
        successes=successes,
        errors=len(group) - len(ended),
        success_low=interval.low,
        success_high=interval.high,
        mean_depth=_mean([depth for episode in ended for depth in episode.depths]),
        mean_executed=_mean([count for episode in ended for count in episode.executed]),
        mean_steps=_mean([episode.steps for episode in ended]),
        query_ms=_mean([episode.query_ms for episode in ended if episode.query_ms is not None]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


T = typing.TypeVar("T")


def _build(cls: type[T], values: Any, place: str) -> T:
    """Build the dataclass `cls` from a mapping after checking names and types."""
    if not isinstance(values, dict):
        raise ResultsError(f"{place} must be a mapping, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    for name in values.keys() - hints.keys():
        raise ResultsError(f"{place} has an unknown entry '{name}'")
    built: dict[str, Any] = {}
    for item in fields:
        if item.name in values:
            built[item.name] = _checked(hints[item.name], values[item.name], f"{place}.{item.name}")
        elif item.default is dataclasses.MISSING:
            raise ResultsError(f"{place} lacks '{item.name}'")
    return cls(**built)


def _checked(kind: Any, value: Any, place: str) -> Any:
    options = typing.get_args(kind) if typing.get_origin(kind) is types.UnionType else (kind,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return _build(option, value, place)  # type: ignore[arg-type]
        if _is(option, value):
            return value
    raise ResultsError(f"{place} must be {_name(kind)}, got {value!r}")


def _is(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return isinstance(value, list) and all(_is(item, one) for one in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and typing.get_origin(kind) is None else str(kind)
