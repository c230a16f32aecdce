"""What is known of a simulator's tasks without importing the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskSuite:
    """The tasks of one environment and the protocol they are evaluated by.

    Attributes:
        instructions: task name -> what it asks for, in the benchmark's order.
        sets: name of a set -> names of its tasks.
        default_tasks: tasks or sets meant when none are named.
        step_limits: name of a protocol -> control steps after which an episode ends.
        default_step_limit: which of them evaluations use unless told otherwise.
        cameras: names of the cameras, all of which are used unless told otherwise.
        noise_levels: standard deviations of the noise in demonstrations unless told otherwise, action units.
        burst_probability: chance a control step that a burst of noise starts, unless told otherwise.
        official_states: initial states that the benchmark fixes for each task; None if it draws them.
    """

    instructions: Mapping[str, str]
    sets: Mapping[str, tuple[str, ...]]
    default_tasks: tuple[str, ...]
    step_limits: Mapping[str, int]
    default_step_limit: str
    cameras: tuple[str, ...]
    noise_levels: tuple[float, ...]
    burst_probability: float
    official_states: int | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks."""
        return tuple(self.instructions)
