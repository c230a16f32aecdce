"""Run jobs whose list grows while they run, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
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
    runner: Runner[Job, Result], next_job: Callable[[Job | None], Job | None], *, workers: int
) -> Iterator[tuple[Job, Result]]:
    """Yield (job, result) as jobs finish, until there is none left and none is running.

    Args:
        runner: does the jobs.
        next_job: gives a job that was not given before, or None, for a worker whose last job is the
            argument (None: it had none). So a worker can go on with what it has open. Asked again after each
            result has been consumed, so a result may bring new jobs.
        workers: number of processes (spawned: OpenGL does not survive a fork). 1: in this process.

    Raises:
        RDVLAError: a worker process died. An exception of a job is raised as it is.
    """
    if workers == 1:
        yield from _run_here(runner, next_job)
        return
    # One pool for each process: only so can a job be given to a certain one.
    pools = [_open_pool(runner) for _ in range(workers)]
    last: list[Job | None] = [None] * workers
    running: dict[Future[Any], int] = {}
    try:
        while True:
            for worker in sorted(set(range(workers)) - set(running.values())):
                job = next_job(last[worker])
                if job is not None:
                    last[worker] = job
                    running[pools[worker].submit(_work, job)] = worker
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                finished = last[running.pop(future)]
                assert finished is not None
                yield finished, future.result()
    except BrokenProcessPool as error:
        raise RDVLAError(
            "a worker process died, probably for lack of memory. What is finished is kept: "
            "run the same command again, with fewer workers"
        ) from error
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)


def _open_pool(runner: Runner[Any, Any]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(runner,),
    )


def _run_here(
    runner: Runner[Job, Result], next_job: Callable[[Job | None], Job | None]
) -> Iterator[tuple[Job, Result]]:
    job = None
    try:
        while (job := next_job(job)) is not None:
            yield job, runner(job)
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
