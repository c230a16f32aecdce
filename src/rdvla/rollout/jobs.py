"""Episodes to run with a policy, and which worker runs which of them next."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rdvla.control import ExecutionRule, Stop, WarmStart, as_execution, parse_stop, split_start, stop_text
from rdvla.errors import ConfigError
from rdvla.rollout.episode import TaskKey

MILLISECONDS = "ms"  # behind the number of a deadline, which tells it from a start
Batching = Literal["single", "together"]  # queries of several workers, see `rdvla.rollout.queries`
SERVERS_OWN = "server"  # in place of a stop rule: whatever the policy server does by itself


@dataclass(frozen=True)
class Setting:
    """How a policy is run: when it stops iterating, and how much of a chunk is executed."""

    # "fixed:8" or "action_change:0.001", say; "server" if a policy server decides. With "@shifted", say, if
    # S_0 is not noise, and "@20ms" if every query has a deadline.
    stop: str
    execution: str  # "fixed:8", say

    @classmethod
    def parse(cls, stop: int | str | Stop, execution: int | str | ExecutionRule) -> Setting:
        """Bring a stop rule, ``@start`` and ``@20ms`` behind it or not, and an execution rule into one form.

        Raises:
            ConfigError: a text is no such rule, or the deadline is no time.
        """
        text, deadline = _split_deadline(stop_text(stop))
        rule, start = split_start(text)
        behind = "" if start.kind == "noise" else f"@{start.kind}"
        behind += "" if deadline is None else f"@{deadline:g}{MILLISECONDS}"
        if rule == SERVERS_OWN and behind.startswith(f"@{start.kind}"):
            raise ConfigError(f"{text!r}: a server that decides its stop rule decides its starts as well")
        written = rule if rule == SERVERS_OWN else parse_stop(rule).describe()
        return cls(written + behind, as_execution(execution).describe())

    @property
    def rule(self) -> str:
        """The stop rule alone, or `SERVERS_OWN`."""
        return split_start(_split_deadline(self.stop)[0])[0]

    @property
    def start(self) -> WarmStart:
        """Where the iterations of a query start."""
        return split_start(_split_deadline(self.stop)[0])[1]

    @property
    def deadline_ms(self) -> float | None:
        """Milliseconds after which a server has to answer; None without a deadline."""
        return _split_deadline(self.stop)[1]

    @property
    def depth(self) -> int | None:
        """Iterations under a fixed depth; None under an adaptive rule, a deadline, or a server's own rule."""
        if self.rule == SERVERS_OWN:
            return None
        rule = parse_stop(self.rule)
        return rule.max_depth if rule.is_fixed and self.deadline_ms is None else None

    @property
    def short_stop(self) -> str:
        """The stop rule as it is shown, e.g. ``8@final`` or ``action_change:0.001``."""
        _, at, start = self.stop.partition("@")
        return self.stop if self.depth is None else f"{self.depth}{at}{start}"

    @property
    def name(self) -> str:
        """What `rdvla.evaluation.find_setting` reads it from, e.g. ``8/fixed:8``."""
        return f"{self.short_stop}/{self.execution}"

    def describe(self) -> str:
        """Return a short name for tables, e.g. ``depth 8`` or ``action_change:0.001``."""
        return self.short_stop if self.depth is None else f"depth {self.short_stop}"


def _split_deadline(text: str) -> tuple[str, float | None]:
    """Split ``RULE@START@20ms`` into the text before the deadline, and its milliseconds."""
    rest, at, last = text.strip().rpartition("@")
    if not at or not last.endswith(MILLISECONDS):
        return text, None
    try:
        milliseconds = float(last.removesuffix(MILLISECONDS))
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise ConfigError(f"cannot read the deadline in {text!r}: write milliseconds, such as {rest}@20ms")
    return rest, milliseconds


def starting_seed(task: str, seed: int, query: int) -> int:
    """Return the seed of S_0 for a query of an episode, wherever the policy runs."""
    digest = hashlib.blake2b(f"{task}/{seed}/{query}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1  # torch takes 63 bits


@dataclass(frozen=True)
class EpisodeJob:
    """An episode to run with a policy."""

    env: str
    task: str
    setting: Setting
    seed: int
    max_steps: int
    video: Path | None = None  # absolute, if the episode may be played on another machine
    video_fps: int = 20

    @property
    def task_key(self) -> TaskKey:
        """The simulator it needs."""
        return self.env, self.task

    @property
    def key(self) -> tuple[str, str, Setting, int]:
        """What distinguishes it from all other episodes of a run."""
        return self.env, self.task, self.setting, self.seed

    @property
    def robot(self) -> str:
        """Its name at the `Desk` and on the live page."""
        return f"{self.env} {self.task}, {self.setting.name}, seed {self.seed}"

    def describe(self) -> str:
        """E.g. ``playing push-v3 with seed 1000000``."""
        return f"playing {self.task} with seed {self.seed}"


@dataclass(frozen=True)
class ServedQueries:
    """What an episode saw of its policy server."""

    # Of each query whose actions were executed, from asking to the answer.
    milliseconds: list[float] = field(default_factory=list)
    ended_by: list[str] = field(default_factory=list)  # converged, max_depth, deadline; empty: it did not say


class Schedule:
    """Episodes that wait for a worker.

    Opening an environment can take ten seconds and gigabytes. A worker therefore stays at its task until all
    the task's episodes under all settings are handed out, continues with a task that nobody has begun, and
    then helps at the task that has most left.
    """

    def __init__(self, jobs: Iterable[EpisodeJob]) -> None:
        self._waiting: dict[TaskKey, deque[EpisodeJob]] = {}
        for job in jobs:
            self._waiting.setdefault(job.task_key, deque()).append(job)
        self._begun: set[TaskKey] = set()

    def next_job(self, last: EpisodeJob | None) -> EpisodeJob | None:
        """Return the next episode for a worker that ran `last`; None if all are handed out."""
        chosen = last.task_key if last is not None and last.task_key in self._waiting else self._elsewhere()
        if chosen is None:
            return None
        self._begun.add(chosen)
        job = self._waiting[chosen].popleft()
        if not self._waiting[chosen]:
            del self._waiting[chosen]
        return job

    def _elsewhere(self) -> TaskKey | None:
        fresh = next((task_key for task_key in self._waiting if task_key not in self._begun), None)
        return fresh or max(self._waiting, key=lambda task_key: len(self._waiting[task_key]), default=None)
