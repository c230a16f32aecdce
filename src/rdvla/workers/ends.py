"""Jobs of a pool: what is asked of them, and how they end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

WORKER_DIED = "WorkerDied"  # the `type` of a failure that was no exception


class Job(Protocol):
    """What a worker is to do."""

    def describe(self) -> str:
        """Say what the worker is doing, for messages: ``playing push-v3 with seed 3``."""
        ...


JobT = TypeVar("JobT", bound=Job)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Question(Generic[JobT]):
    """What a job asks while it runs."""

    job: JobT
    content: Any
    number: int  # questions the job asked before; 0 again if it begins anew after a death


@dataclass(frozen=True)
class Finished(Generic[JobT, ResultT]):
    """A job that ran to its end."""

    job: JobT
    result: ResultT


@dataclass(frozen=True)
class Failed(Generic[JobT]):
    """A job that an exception or its worker's death ended."""

    job: JobT
    type: str  # of the exception, or `WORKER_DIED`
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Later:
    """In place of an answer: there is none yet, ask again."""

    seconds: float  # after these at the latest; sooner if another worker has a message
