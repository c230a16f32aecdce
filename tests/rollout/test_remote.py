"""Episodes whose policy is behind a server: what is sent, what is noted, and how failures end."""

import numpy as np
import pytest

from rdvla.rollout import (
    EpisodeJob,
    Failed,
    PolicyServerError,
    RemotePolicy,
    Setting,
    roll_out_remote,
    starting_seed,
)
from tests.support.line_task import make_line, make_raising
from tests.support.policy_server import OPTIONS, Close, policy_server
from tests.support.thread_workers import ThreadWorkers

pytest.importorskip("rdvla_client")

ALL = frozenset(OPTIONS)


def write(observation):
    return {"state": np.asarray(observation.state), "prompt": observation.instruction}


def walk(message):
    """Half a step forward each, two of four actions to execute."""
    ended_by = "deadline" if "deadline_ms" in message.get("rdvla", {}) else "converged"
    actions = np.full((4, 1), 0.5, np.float32)
    return {"actions": actions, "depth": 3, "execute_steps": 2, "ended_by": ended_by}


def jobs(*seeds, stop="8", execution="fixed:2"):
    setting = Setting.parse(stop, execution)
    return [EpisodeJob(env="line", task="near", setting=setting, seed=seed, max_steps=30) for seed in seeds]


def play(address, episodes, *, understands=ALL, make=make_line, workers=2, api_key=None):
    server = RemotePolicy(address, write, understands, api_key)
    return list(roll_out_remote(server, episodes, make=make, workers=workers, transport=ThreadWorkers()))


def test_every_episode_is_a_connection_and_notes_what_the_server_said():
    with policy_server(walk) as served:
        outcomes = play(served.address, jobs(1, 2, 3))
    assert len(served.paths) == 3
    for outcome in outcomes:
        result = outcome.end.result
        assert result.success and sum(result.executed) == result.steps
        queries = len(result.executed)
        assert result.executed[:-1] == [2] * (queries - 1)
        assert outcome.depths == [3] * queries
        assert outcome.served.ended_by == ["converged"] * queries
        assert len(outcome.served.milliseconds) == queries
        assert all(each > 0 for each in outcome.served.milliseconds)


def test_a_server_of_rdvla_is_told_setting_and_seed_of_every_query():
    with policy_server(walk) as served:
        play(served.address, jobs(7, stop="action_change:1e-3@shifted@20ms"))
    for number, options in enumerate(served.options):
        assert options["stop"] == "action_change:0.001@shifted"
        assert options["deadline_ms"] == 20
        assert options["seed"] == starting_seed("near", 7, number)
    assert served.options[0]["execution"] == "fixed:2"


def test_without_a_start_the_server_is_told_to_start_from_noise():
    with policy_server(walk) as served:
        play(served.address, jobs(7))
    assert {options["stop"] for options in served.options} == {"fixed:8@noise"}


def test_a_server_may_keep_its_own_rule():
    with policy_server(walk) as served:
        play(served.address, jobs(7, stop="server@50ms"))
    assert all("stop" not in options and options["deadline_ms"] == 50 for options in served.options)


def test_other_servers_are_sent_observations_alone():
    def plain(message):
        assert set(message) == {"state", "prompt"}
        return {"actions": np.full((4, 1), 0.5)}

    with policy_server(plain, metadata={}) as served:
        (outcome,) = play(
            served.address, jobs(1, stop="server", execution="fixed:3"), understands=frozenset()
        )
    assert outcome.end.result.success
    assert set(outcome.end.result.executed[:-1]) == {3}
    assert (outcome.depths, outcome.served.ended_by) == ([], [])


def test_workers_ask_at_the_same_time():
    import threading

    both = threading.Barrier(2)

    def together(message):
        both.wait(timeout=20)  # breaks if the second question waits for the first answer
        return walk(message)

    with policy_server(together) as served:
        outcomes = play(served.address, jobs(4, 4))  # equal episodes ask equally often
    assert [outcome.end.result.success for outcome in outcomes] == [True, True]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Close("the observation lacks 'observation/image'"), "lacks 'observation/image'"),
        (Close("64 queries wait already", 1013), "64 queries wait already"),
        ({"actions": np.zeros(4, np.float32)}, "sent no chunk of actions"),
        ({"actions": np.full((4, 1), np.nan)}, "actions that are not finite"),
        ({"actions": np.zeros((1, 1), np.float32)}, "chunks of 1 actions, and 2 are to be executed"),
    ],
)
def test_a_server_that_does_not_answer_ends_the_rollout(answer, message):
    def reply(_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with (
        policy_server(reply) as served,
        pytest.raises(PolicyServerError, match=message) as raised,
    ):
        play(served.address, jobs(1))
    assert "playing near with seed 1" in str(raised.value)
    assert "the same command goes on" in str(raised.value)


def test_every_connection_shows_the_key():
    with policy_server(walk) as served:
        play(served.address, jobs(1), api_key="open sesame")
    assert [headers["Authorization"] for headers in served.headers] == ["Api-Key open sesame"]


def test_a_simulator_that_fails_is_an_outcome():
    with policy_server(walk) as served:
        outcomes = play(served.address, jobs(1, 2), make=make_raising)
    assert sorted(isinstance(outcome.end, Failed) for outcome in outcomes) == [False, True]
    assert {outcome.served is None for outcome in outcomes} == {True, False}


def test_an_address_that_cannot_be_read_is_one_sentence():
    with pytest.raises(PolicyServerError, match="server: the address 'ftp://robot' begins with ftp"):
        play("ftp://robot", jobs(1))
