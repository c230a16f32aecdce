"""The account of a generation: which attempts are done, and which are still needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdvla.errors import RDVLAError
from rdvla.simulation.demonstrations.attempts import Attempt

_HOPELESS = 20  # failures without any success, after which a task is given up


@dataclass(frozen=True)
class TaskReport:
    """How many episodes a task has, and how often its expert failed under the noise."""

    task: str
    episodes: int
    failed_attempts: int


class Ledger:
    """Decides which attempts to make, so the dataset does not depend on the order in which they finish.

    Args:
        tasks: the tasks in the dataset's order.
        episodes_per_task: successes wanted per task.
        max_attempts_per_episode: a task that would need more on average is given up.
        outcomes: of an interrupted generation: `Attempt.number` -> success.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        episodes_per_task: int,
        max_attempts_per_episode: int,
        outcomes: Mapping[int, bool],
    ) -> None:
        self._tasks = tuple(tasks)
        self._episodes = episodes_per_task
        self._limit = episodes_per_task * max_attempts_per_episode
        self._successes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._numbers: list[int] = []
        self._handed_out: set[Attempt] = set()
        self._next: Counter[str] = Counter()  # of each task, the lowest attempt that was not handed out
        for number, success in outcomes.items():
            attempt = Attempt.from_number(number, self._tasks)
            self._hand_out(attempt)
            self.record(attempt, success=success)

    def next_attempt(self, last: Attempt | None) -> Attempt | None:
        """Return an attempt that is certainly needed and was not handed out yet; None if there is none now.

        It belongs to `last`'s task while that needs any, since opening a task's simulator takes seconds;
        otherwise to a task that was not begun, or else to the first that needs an attempt.

        A task needs as many attempts as it wants episodes, and another for each failure so far. In whatever
        order results come in, this ends with the shortest series of attempts 0, 1, 2, ... that has enough.

        Raises:
            RDVLAError: a task needs more attempts than allowed.
        """
        due = [task for task in self._tasks if self._needed(task) > self._next[task]]
        if not due:
            return None
        if last is not None and last.task in due:
            task = last.task
        else:
            task = next((task for task in due if self._next[task] == 0), due[0])
        attempt = Attempt(task=task, task_index=self._tasks.index(task), attempt=self._next[task])
        self._hand_out(attempt)
        return attempt

    def _needed(self, task: str) -> int:
        needed = self._episodes + self._failures[task]
        hopeless = self._failures[task] >= _HOPELESS and self._successes[task] == 0
        if hopeless or needed > self._limit:
            raise RDVLAError(
                f"{task}: the expert failed in {self._failures[task]} attempts and succeeded in "
                f"{self._successes[task]}, which is too seldom for {self._episodes} episodes in at most "
                f"{self._limit}. Raise max_steps, lower noise_levels, or leave the task out of tasks"
            )
        return needed

    def _hand_out(self, attempt: Attempt) -> None:
        self._handed_out.add(attempt)
        while Attempt(attempt.task, attempt.task_index, self._next[attempt.task]) in self._handed_out:
            self._next[attempt.task] += 1

    def record(self, attempt: Attempt, *, success: bool) -> None:
        """Note the outcome of an attempt."""
        if success:
            self._successes[attempt.task] += 1
            self._numbers.append(attempt.number)
        else:
            self._failures[attempt.task] += 1

    @property
    def succeeded(self) -> int:
        """Number of successful attempts."""
        return self._successes.total()

    @property
    def failed(self) -> int:
        """Number of failed attempts."""
        return self._failures.total()

    def numbers(self) -> list[int]:
        """Return the numbers of the successful attempts, ascending."""
        return sorted(self._numbers)

    def reports(self) -> tuple[TaskReport, ...]:
        """Return a report per task."""
        return tuple(TaskReport(task, self._successes[task], self._failures[task]) for task in self._tasks)
