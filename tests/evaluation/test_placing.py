"""Copies of a policy in workers: who is asked if some of them die, or have no room."""

import pytest
import torch

from rdvla.errors import RDVLAError
from rdvla.evaluation.placing import PolicyOnRay, PolicyRunner
from rdvla.evaluation.players import PolicyPlayer, Staging
from rdvla.rollout import Call, EpisodeJob, Setting
from tests.support.line_task import make_line
from tests.support.rollout_doubles import BatchPolicy
from tests.support.thread_workers import Death, ThreadWorkers
from tests.support.tiny_models import make_observation


class Mortal(BatchPolicy):
    """Dies at its first queries, as often as it is told."""

    def __init__(self, deaths):
        self.deaths = deaths

    def __deepcopy__(self, memo):
        return self  # the copies of all workers share their fate

    def predict(self, observation, *, stop=None, initial_state=None):
        if self.deaths:
            self.deaths.pop()
            raise Death
        return super().predict(observation, stop=stop, initial_state=initial_state)


class SecondFirst(ThreadWorkers):
    """None has room at first; then the second has, and the first never."""

    def start(self, number, runner):
        self.room = 0
        return super().start(number, runner)

    def wait(self, links, timeout=None):
        second = self.started[1]
        if not second.begun:
            second.begun = True
            second.thread.start()
            return []
        return super().wait(links, timeout)


def there(policy, transport, *, copies):
    runner = PolicyRunner(policy, device="cpu", threads=torch.get_num_threads())
    return PolicyOnRay(policy, runner, transport, copies=copies)


def check_answers(policy, place):
    calls = [
        Call(make_observation(1, seed=seed).torch(), "fixed:3", policy.initial_state(1)) for seed in range(5)
    ]
    for answer, call in zip(place.predict_each(calls), calls, strict=True):
        here = BatchPolicy().predict(call.observation, stop=call.stop, initial_state=call.initial_state)
        assert torch.equal(answer.actions, here.actions)
        assert torch.equal(answer.depth, here.depth)


def test_a_copy_that_dies_and_finds_no_room_again_leaves_its_queries_to_the_others():
    policy, transport = Mortal(["once"]), ThreadWorkers(room=2)
    with there(policy, transport, copies=2) as place:
        check_answers(policy, place)
        check_answers(policy, place)
    assert [link.begun for link in transport.started] == [True, True, False]


def test_the_copy_that_finds_room_first_is_asked_whichever_it_is():
    policy, transport = BatchPolicy(), SecondFirst()
    with there(policy, transport, copies=2) as place:
        check_answers(policy, place)
        check_answers(policy, place)


def test_copies_that_keep_dying_end_the_run_with_a_sentence():
    policy = Mortal(["again"] * 100)
    with (
        there(policy, ThreadWorkers(), copies=2) as place,
        pytest.raises(RDVLAError, match=r"11 have died in a row.*--ray_gpus 0"),
    ):
        check_answers(policy, place)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_times_per_query_say_whether_they_are_of_this_machine(elsewhere):
    policy = BatchPolicy()
    player = PolicyPlayer(
        policy, elsewhere=(lambda here: there(here, ThreadWorkers(), copies=1)) if elsewhere else None
    )
    jobs = [EpisodeJob("line", "near", Setting("fixed:4", "fixed:8"), seed=0, max_steps=30)]
    with player.placed():
        (outcome,) = player.play(jobs, Staging(make_line, 1, ThreadWorkers()))
        timing = player.time(["fixed:4"], seconds=0.01)
    assert outcome.end.result.success
    assert timing["elsewhere"] is elsewhere and timing["query_ms"]["fixed:4"] > 0
