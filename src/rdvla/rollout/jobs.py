"""Episodes to be played by a policy, and which worker plays which of them next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rdvla.rollout.episode import Place


@dataclass(frozen=True)
class Setting:
    """How deep the policy thinks, and how much of a chunk is executed."""

    rule: str  # "fixed" or "action_change:0.001", say; with "@shifted", say, where S_0 is not noise
    depth: int | None  # iterations under the fixed rule, None under an adaptive one
    execution: str  # e.g. "fixed:8"

    @property
    def rule_text(self) -> str:
        """The stop rule and the start as `rdvla.control.split_start` reads them."""
        return self.rule if self.depth is None else str(self.depth) + self._start

    @property
    def name(self) -> str:
        """What `rdvla.evaluation.find_setting` reads it from, e.g. ``8/fixed:8``."""
        return f"{self.rule_text}/{self.execution}"

    def describe(self) -> str:
        """A short name for tables, e.g. ``depth 8`` or ``action_change:0.001``."""
        return self.rule if self.depth is None else f"depth {self.depth}{self._start}"

    @property
    def _start(self) -> str:
        _, at, start = self.rule.partition("@")
        return at + start


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to play."""

    env: str
    task: str
    setting: Setting
    seed: int
    max_steps: int
    video: Path | None = None
    video_fps: int = 20

    @property
    def place(self) -> Place:
        """The simulator it needs."""
        return self.env, self.task

    @property
    def key(self) -> tuple[str, str, Setting, int]:
        """What distinguishes it from all other episodes of a run."""
        return self.env, self.task, self.setting, self.seed

    def describe(self) -> str:
        """E.g. ``playing push-v3 with seed 1000000``."""
        return f"playing {self.task} with seed {self.seed}"


class Schedule:
    """Episodes that wait to be played.

    Opening an environment can take ten seconds and gigabytes. A worker therefore stays at its task until all
    the task's episodes under all settings are handed out, continues with a task that nobody has begun, and
    then helps at the task that has most left.
    """

    def __init__(self, jobs: Iterable[EpisodeJob]) -> None:
        self._waiting: dict[Place, deque[EpisodeJob]] = {}
        for job in jobs:
            self._waiting.setdefault(job.place, deque()).append(job)
        self._begun: set[Place] = set()

    def next_job(self, last: EpisodeJob | None) -> EpisodeJob | None:
        """Return the next episode for a worker that played `last`; None when all are handed out."""
        chosen = last.place if last is not None and last.place in self._waiting else self._elsewhere()
        if chosen is None:
            return None
        self._begun.add(chosen)
        job = self._waiting[chosen].popleft()
        if not self._waiting[chosen]:
            del self._waiting[chosen]
        return job

    def _elsewhere(self) -> Place | None:
        fresh = next((place for place in self._waiting if place not in self._begun), None)
        return fresh or max(self._waiting, key=lambda place: len(self._waiting[place]), default=None)
