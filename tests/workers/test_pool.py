"""The pool with a transport of another kind: threads that ask, fail and die."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from rdvla.errors import RDVLAError
from rdvla.rollout import EpisodeJob, Setting, roll_out
from rdvla.workers import Failed, Finished, Later, LocalProcesses, run_jobs
from tests.support.line_task import make_line
from tests.support.rollout_doubles import StepPolicy
from tests.support.thread_workers import GONE, Death, ThreadWorkers


@dataclass(frozen=True)
class Sum:
    """Add up the answers to some questions; one of them may be fatal."""

    name: str
    questions: tuple = ()

    def describe(self):
        return f"adding up {self.name}"


class Adder:
    def __init__(self):
        self.closed = 0

    def run(self, job, ask):
        total = 0
        for question in job.questions:
            if question == "raise":
                raise ArithmeticError(f"cannot add {job.name}")
            if question == "die":
                raise Death
            total += ask(question)
        return total

    def close(self):
        self.closed += 1


def run(jobs, *, transport, workers=2, retries=0, answer=None):
    waiting, answered = list(jobs), []

    def double(questions):
        answered.extend((question.job.name, question.number) for question in questions)
        return [2 * question.content for question in questions]

    ends = run_jobs(
        Adder(),
        lambda last: waiting.pop(0) if waiting else None,
        transport=transport,
        workers=workers,
        answer=answer or double,
        retries=retries,
    )
    return {end.job.name: end for end in ends}, answered


@pytest.mark.parametrize(
    "transport", [ThreadWorkers(), LocalProcesses(), None], ids=["threads", "processes", "here"]
)
def test_jobs_ask_and_get_answers_in_their_order(transport):
    jobs = [Sum(name, tuple(range(count))) for name, count in (("a", 3), ("b", 0), ("c", 5), ("d", 1))]
    ends, answered = run(jobs, transport=transport)
    assert {name: end.result for name, end in ends.items()} == {"a": 6, "b": 0, "c": 20, "d": 0}
    assert [number for name, number in answered if name == "c"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "transport", [ThreadWorkers(), LocalProcesses(), None], ids=["threads", "processes", "here"]
)
def test_an_exception_fails_its_job_and_no_other(transport):
    ends, _ = run([Sum("a", (1, "raise")), Sum("b", (1,))], transport=transport, workers=1)
    assert (ends["a"].type, ends["a"].message) == ("ArithmeticError", "cannot add a")
    assert "test_pool.py" in ends["a"].traceback
    assert ends["b"].result == 2


@pytest.mark.parametrize(
    "transport", [ThreadWorkers(), LocalProcesses(), None], ids=["threads", "processes", "here"]
)
def test_an_answer_may_come_later_while_other_jobs_go_on(transport):
    held, answered = [], []

    def answer(questions):
        replies = []
        for question in questions:
            waits = question.job.name == "held" and question.number == 1
            held.append(question.content) if waits else None
            others_done = transport is None or len(answered) >= 6
            if waits and not (len(held) > 3 and others_done):
                replies.append(Later(0.001))
            else:
                answered.append((question.job.name, question.number))
                replies.append(2 * question.content)
        return replies

    ends, _ = run([Sum("held", (1, 2, 3)), Sum("free", (1, 2, 3, 4, 5))], transport=transport, answer=answer)
    assert {name: end.result for name, end in ends.items()} == {"held": 12, "free": 30}
    assert set(held) == {2}  # the same question each time
    assert sorted(answered) == [("free", n) for n in range(5)] + [("held", n) for n in range(3)]
    if transport is not None:
        assert answered[-2:] == [("held", 1), ("held", 2)]


def test_a_worker_that_dies_while_it_waits_gets_no_answer():
    transport, asked = ThreadWorkers(), []

    def answer(questions):
        asked.extend(question.number for question in questions)
        if len(asked) == 2:
            transport.started[0].say(GONE)
        return [Later(0.001) if len(asked) < 6 else question.content for question in questions]

    jobs = [Sum("a", (5, 5))]
    (end,) = run_jobs(
        Adder(),
        lambda last: jobs.pop() if jobs else None,
        transport=transport,
        workers=1,
        answer=answer,
        retries=1,
    )
    assert end.result == 10
    assert len(transport.started) == 2
    assert asked[-2:] == [0, 1]


def test_a_dead_worker_is_replaced_and_its_job_has_failed():
    transport = ThreadWorkers()
    ends, _ = run([Sum("a", (1, "die")), Sum("b", (1,))], transport=transport, workers=1)
    assert isinstance(ends["a"], Failed) and isinstance(ends["b"], Finished)
    assert ends["a"].message == "worker 0, thread 0 died while adding up a"
    assert len(transport.started) == 2
    assert all(link.stopped for link in transport.started)


def test_a_job_begins_anew_after_a_death_if_the_caller_says_so():
    transport, deaths = ThreadWorkers(), ["die", "die"]

    def answer(questions):
        asked.extend(question.number for question in questions)
        return [deaths.pop() if deaths else 1 for _ in questions]

    class Mortal(Adder):
        def run(self, job, ask):
            for question in job.questions:
                if ask(question) == "die":
                    raise Death
            return job.name

    for retries, expected in ((2, Finished), (1, Failed)):
        deaths[:], asked = ["die", "die"], []
        jobs = [Sum("a", (1, 2))]
        (end,) = run_jobs(
            Mortal(),
            lambda last, jobs=jobs: jobs.pop() if jobs else None,
            transport=transport,
            workers=1,
            answer=answer,
            retries=retries,
        )
        assert isinstance(end, expected)
        assert asked == ([0, 0, 0, 1] if retries == 2 else [0, 0])


def test_workers_that_keep_dying_stop_everything():
    transport = ThreadWorkers()
    with pytest.raises(RDVLAError, match=r"7 workers have died.*run the same command again"):
        run([Sum(str(number), ("die",)) for number in range(20)], transport=transport)
    assert all(link.stopped for link in transport.started)


def test_a_worker_is_asked_for_with_its_last_job_and_results_may_bring_new_ones():
    asked, results, waiting = [], [], [["a"], ["b", "c"]]

    def next_job(last):
        asked.append(None if last is None else last.name)
        due = waiting[1 if results else 0]
        return Sum(due.pop(0)) if due else None

    for end in run_jobs(Adder(), next_job, transport=ThreadWorkers(), workers=2):
        results.append(end.job.name)
    assert sorted(results) == ["a", "b", "c"]
    assert asked[:2] == [None, None]  # the second worker had to wait for the first result
    assert asked[2:4] == ["a", None]


def test_a_rollout_takes_another_transport():
    jobs = [
        EpisodeJob(env="line", task=task, setting=Setting("fixed:4", "fixed:8"), seed=seed, max_steps=30)
        for task in ("near", "far")
        for seed in range(2)
    ]
    transport = ThreadWorkers()
    outcomes = list(roll_out(StepPolicy(), jobs, make=make_line, workers=2, transport=transport))
    assert len(transport.started) == 2
    assert {(one.end.job.task, one.end.job.seed) for one in outcomes} == {
        (job.task, job.seed) for job in jobs
    }
    assert all(one.end.result.success and set(one.depths) == {4} for one in outcomes)


class Sleeper:
    def run(self, job, ask):
        ask(os.getpid())
        time.sleep(600)

    def close(self):
        pass


def sleep_in_workers():
    """Entry point of a process that is killed while its workers are busy."""

    def answer(questions):
        for question in questions:
            sys.stdout.write(f"{question.content}\n")
            sys.stdout.flush()
        return [None] * len(questions)

    jobs = [Sum("a"), Sum("b")]
    list(
        run_jobs(
            Sleeper(), lambda last: jobs.pop() if jobs else None,
            transport=LocalProcesses(), workers=2, answer=answer,
        )
    )  # fmt: skip


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name != "posix", reason="asks for processes by signal 0")
def test_workers_end_with_a_parent_that_is_killed():
    code = "from tests.workers.test_pool import sleep_in_workers as f\nif __name__ == '__main__': f()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        patience = threading.Timer(120, parent.kill)  # ends a wait for workers that never begin
        patience.start()
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        patience.cancel()
        assert all(alive(worker) for worker in workers)
        parent.kill()
        parent.wait(timeout=60)
    deadline = time.monotonic() + 30
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


def test_a_workers_process_imports_no_torch():
    modules = "rdvla.rollout.worker, rdvla.workers.processes, rdvla.evaluation.protocol"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class Stopper:
    """Stops its process in the first attempt at a job, as SIGSTOP from outside does."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, job, ask):
        mark = self.folder / job.name
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return ask(21)

    def close(self):
        pass


@pytest.mark.skipif(os.name != "posix", reason="stops processes by a signal")
def test_a_stopped_worker_counts_as_dead_after_its_time_of_silence(tmp_path):
    jobs = [Sum("a")]
    ends = list(
        run_jobs(
            Stopper(tmp_path),
            lambda last: jobs.pop() if jobs else None,
            transport=LocalProcesses(),
            workers=1,
            answer=lambda questions: [2 * question.content for question in questions],
            retries=1,
            silence_seconds=15,
        )
    )
    assert [end.result for end in ends] == [42]

    (tmp_path / "a").unlink()
    jobs.append(Sum("a"))
    (end,) = run_jobs(
        Stopper(tmp_path),
        lambda last: jobs.pop() if jobs else None,
        transport=LocalProcesses(),
        workers=1,
        silence_seconds=1,
    )
    assert (end.type, "silent for 1 s" in end.message) == ("WorkerDied", True)


def test_a_job_whose_worker_has_no_room_is_done_by_another():
    transport = ThreadWorkers(room=1)
    ends, _ = run([Sum("a", (1,)), Sum("b", (2,)), Sum("c", (3,))], transport=transport, workers=3)
    assert {name: end.result for name, end in ends.items()} == {"a": 2, "b": 4, "c": 6}
    assert [link.begun for link in transport.started] == [True, False, False]


def test_a_machine_that_dies_is_no_fault_of_the_job_that_it_ran():
    transport = ThreadWorkers(mortal=4)
    ends, _ = run([Sum("a", (1, 2))], transport=transport, workers=1, retries=0)
    assert ends["a"].result == 6
    assert len(transport.started) == 5
