"""What an evaluation records: episodes, rows that sum them up, and how both are read from JSON."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

from rdvla.errors import RDVLAError
from rdvla.rollout.jobs import ServedQueries, Setting


class ResultsError(RDVLAError, ValueError):
    """A results file does not follow the schema, or does not hold what is asked of it."""


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
    stop: str
    execution: str
    seed: int
    success: bool | None  # by the policy alone; None if an exception ended the episode
    steps: int
    depths: list[int]  # iterations of each query
    executed: list[int]  # actions executed after each query; without those of a person
    video: str | None = None  # path relative to the results file
    video_stride: int | None = None  # environment steps between its frames; None without a video
    video_speed: float | None = None  # times the robot's own; None without a video, and in older files: 1
    error: EpisodeError | None = None
    served: ServedQueries | None = None  # None if no policy server answered the queries
    driven_steps: int = 0  # environment steps of a person, among `steps`
    interventions: int = 0  # times that a person took over
    success_with_help: bool | None = None  # None if nobody helped

    @property
    def setting(self) -> Setting:
        """How the policy was run."""
        return Setting(stop=self.stop, execution=self.execution)


@dataclass(frozen=True)
class Row:
    """One task under one setting."""

    env: str
    task: str
    policy: str
    stop: str
    execution: str
    episodes: int  # that ended by themselves; `errors` are not among them
    successes: int  # of the policy alone
    errors: int
    success_low: float  # Wilson 95%
    success_high: float
    mean_depth: float | None  # iterations per query; None if no episode ended by itself
    mean_executed: float | None  # actions per query
    mean_steps: float | None  # environment steps per episode
    helped: int = 0  # episodes in which a person drove: none of them is a success of the policy
    helped_successes: int = 0  # of these, those that succeeded with help

    @property
    def setting(self) -> Setting:
        """How the policy was run."""
        return Setting(stop=self.stop, execution=self.execution)

    @property
    def success(self) -> float | None:
        """Fraction of episodes with success; None if there is no episode."""
        return self.successes / self.episodes if self.episodes else None


T = typing.TypeVar("T")


def build(cls: type[T], values: Any, where: str) -> T:
    """Build the dataclass `cls` from a mapping after checking names and types.

    Raises:
        ResultsError: an entry is unknown, missing or of the wrong type; the message starts with `where`.
    """
    if not isinstance(values, dict):
        raise ResultsError(f"{where} must be a mapping, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    for name in values.keys() - hints.keys():
        raise ResultsError(f"{where} has an unknown entry '{name}'")
    built: dict[str, Any] = {}
    for item in fields:
        if item.name in values:
            built[item.name] = _checked(hints[item.name], values[item.name], f"{where}.{item.name}")
        elif item.default is dataclasses.MISSING:
            raise ResultsError(f"{where} lacks '{item.name}'")
    return cls(**built)


def _checked(kind: Any, value: Any, where: str) -> Any:
    options = typing.get_args(kind) if typing.get_origin(kind) is types.UnionType else (kind,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return build(option, value, where)  # type: ignore[arg-type]
        if _is(option, value):
            return value
    raise ResultsError(f"{where} must be {_name(kind)}, got {value!r}")


def _is(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return isinstance(value, list) and all(_is(item, entry) for entry in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and typing.get_origin(kind) is None else str(kind)
