"""Which worker plays which episode next, so that few environments are opened."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rdvla.evaluation.messages import Job, Place


class Schedule:
    """Episodes that wait to be played.

    Opening an environment can take ten seconds and gigabytes, so a worker stays at its task until all of the
    task's episodes under all settings are given out, goes on to a task that nobody has begun, and then helps
    where most is left.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting: dict[Place, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(job.place, deque()).append(job)
        self._begun: set[Place] = set()

    def next(self, place: Place | None) -> Job | None:
        """The next episode for a worker that has `place` open; None when all are given out."""
        chosen = place if place in self._waiting else self._elsewhere()
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
