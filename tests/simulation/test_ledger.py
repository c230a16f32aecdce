"""The account of attempts: the same dataset in whatever order attempts finish."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.errors import RDVLAError
from rdvla.simulation.demonstrations.attempts import Attempt
from rdvla.simulation.demonstrations.ledger import Ledger

TASKS = ("a", "b")


def ledger(outcomes=(), episodes=3):
    return Ledger(
        tasks=TASKS, episodes_per_task=episodes, max_attempts_per_episode=100, outcomes=dict(outcomes)
    )


@settings(max_examples=60, deadline=None)
@given(
    fails=st.lists(st.booleans(), min_size=30, max_size=30),
    workers=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
    stop=st.integers(0, 12),
)
def test_the_first_successes_are_kept_in_any_order_and_after_any_interruption(fails, workers, order, stop):
    def success(attempt):
        place = attempt.attempt + 15 * attempt.task_index
        return place >= len(fails) or not fails[place]

    def run(account, *, results):
        running, done, attempt = [], {}, None
        while len(done) < results:
            while len(running) < workers and (due := account.next_attempt(attempt)) is not None:
                running.append(due)
            if not running:
                break
            attempt = running.pop(order.randrange(len(running)))
            account.record(attempt, success=success(attempt))
            done[attempt.number] = success(attempt)
        return done

    expected = []
    for index, task in enumerate(TASKS):
        attempts = (Attempt(task=task, task_index=index, attempt=n) for n in range(1000))
        expected += islice((attempt.number for attempt in attempts if success(attempt)), 3)
    left = run(ledger(), results=stop)  # interrupted here, with attempts in flight
    resumed = ledger(left)
    run(resumed, results=10_000)
    assert resumed.numbers() == expected
    assert [report.episodes for report in resumed.reports()] == [3, 3]


def test_a_hopeless_task_is_given_up_by_name():
    account = Ledger(tasks=TASKS, episodes_per_task=2, max_attempts_per_episode=2, outcomes={})
    with pytest.raises(RDVLAError, match="a: the expert failed in 3 attempts and succeeded in 0"):
        for _ in range(10):
            account.record(account.next_attempt(None), success=False)


def test_a_worker_stays_with_its_task_and_the_others_begin_new_ones():
    account = ledger(episodes=2)
    first = account.next_attempt(None)
    assert (first.task, account.next_attempt(None).task) == ("a", "b")
    second = account.next_attempt(first)
    assert (second.task, second.attempt) == ("a", 1)
    assert account.next_attempt(second).task == "b"  # "a" needs no more
    assert account.next_attempt(second) is None
