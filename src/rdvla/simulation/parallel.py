"""Run jobs whose list grows while they run, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Protocol, TypeVar

from rdvla.errors import RDVLAError

Job = TypeVar("Job")
JobIn = TypeVar("JobIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)
Result = TypeVar("Result")


class Runner(Protocol[JobIn, ResultOut]):
    """Does one job a call. It is pickled to every worker process once, so it may keep things open there."""

    def __call__(self, job: JobIn, /) -> ResultOut:
        """Do one job."""
        ...

    def close(self) -> None:
        """Close what is open in this process."""
        ...


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_processes(
    runner: Runner[Job, Result], more_jobs: Callable[[], Iterable[Job]], *, workers: int
) -> Iterator[tuple[Job, Result]]:
    """Yield (job, result) as jobs finish, until `more_jobs` has none left and none is running.

    Args:
        runner: does the jobs.
        more_jobs: gives the jobs that are due now and were not given before; asked again after each result
            has been consumed, so a result may bring new jobs.
        workers: number of processes (spawned: OpenGL does not survive a fork). 1: in this process.

    Raises:
        RDVLAError: a worker process died. An exception of a job is raised as it is.
    """
    if workers == 1:
        yield from _run_here(runner, more_jobs)
        return
    pool = ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(runner,),
    )
    running: dict[Future[Any], Job] = {}
    try:
        while True:
            # One job more than can run waits in the queue: no process idles while results are consumed.
            for job in islice(more_jobs(), workers + 1 - len(running)):
                running[pool.submit(_work, job)] = job
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise RDVLAError(
            "a worker process died, probably for lack of memory. What is finished is kept: "
            "run the same command again, with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_here(
    runner: Runner[Job, Result], more_jobs: Callable[[], Iterable[Job]]
) -> Iterator[tuple[Job, Result]]:
    try:
        while batch := list(islice(more_jobs(), 1)):
            yield batch[0], runner(batch[0])
    finally:
        runner.close()


_runner: Runner[Any, Any] | None = None  # of a worker process


def _start_worker(runner: Runner[Any, Any]) -> None:
    global _runner
    _runner = runner
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Any) -> Any:
    assert _runner is not None, "the worker was not started by run_in_processes"
    return _runner(job)
