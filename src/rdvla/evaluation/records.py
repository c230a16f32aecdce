"""What an evaluation records: episodes, and rows that sum them up by task and setting."""

from __future__ import annotations

from dataclasses import dataclass

from rdvla.errors import RDVLAError
from rdvla.rollout.jobs import Setting


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
    video_stride: int | None = None  # environment steps between its frames; None without a video
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
