"""Episodes whose policy is behind a server: what is sent, what is noted, and how failures end."""

import threading
import time

import numpy as np
import pytest
from websockets.sync.server import serve

from rdvla.rollout import EpisodeJob, PolicyServerError, RemotePolicy, Setting, roll_out_remote, starting_seed
from rdvla.workers import Failed
from rdvla_client.wire import pack, unpack
from tests.support.line_task import LineTask, make_line, make_raising
from tests.support.policy_server import OPTIONS, Close, policy_server
from tests.support.thread_workers import ThreadWorkers
from tests.support.toy_simulator import make_toy

ALL = frozenset(OPTIONS)
STILL = np.zeros((4, 1), np.float32)


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


def play(address, episodes, *, understands=ALL, make=make_line, workers=2, **known):
    server = RemotePolicy(address, write, understands, **known)
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
        ({"action": 1}, "sent no chunk of actions"),
        ({"actions": "abc"}, "sent no chunk of actions"),
        ({"actions": [["1"], ["2"]]}, "sent no chunk of actions"),
        ({"actions": [[1, 2], [3]]}, "sent no chunk of actions"),
        ({"actions": np.full((4, 1), 1e300)}, "sent no chunk of actions"),
        ({"actions": STILL, "depth": None}, "sent depth None"),
        ({"actions": STILL, "depth": float("nan")}, "sent depth nan"),
        ({"actions": STILL, "depth": "deep"}, "sent depth 'deep'"),
        ({"actions": STILL, "depth": np.array([1, 2])}, "sent depth array"),
        ({"actions": STILL, "execute_steps": None}, "sent execute_steps None"),
        ({"actions": STILL, "ended_by": 5}, "sent ended_by 5"),
        ({"actions": STILL, "execute_steps": 1}, "wants 1 actions executed, and by fixed:2 it is 2"),
        ({"actions": STILL, "phase": "correcting", "execute_steps": 9}, "and 9 are to be executed"),
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


def test_the_actions_have_the_environments_width(tmp_path):
    setting = Setting.parse("8", 2)
    job = EpisodeJob(env="toy", task="left", setting=setting, seed=1, max_steps=9)
    with (
        policy_server(lambda _: {"actions": np.zeros((4, 7), np.float32)}) as served,
        pytest.raises(PolicyServerError, match="sent actions of 7 numbers, and the environment takes 4"),
    ):
        play(served.address, [job], make=make_toy)


def test_an_adaptive_execution_rule_needs_the_depth_and_is_held_to_it():
    def honest(_):
        return {"actions": STILL + 0.5, "depth": 3, "execute_steps": 4 - (3 - 2)}

    with policy_server(honest) as served:
        (outcome,) = play(served.address, jobs(1, execution="linear:4,1,2"))
    assert set(outcome.end.result.executed[:-1]) == {3}
    for reply, message in (
        ({"actions": STILL, "depth": 2, "execute_steps": 3}, "wants 3 actions executed, .* it is 4"),
        ({"actions": STILL}, "does not say the depth"),
    ):
        with (
            policy_server(lambda _, reply=reply: reply) as served,
            pytest.raises(PolicyServerError, match=message),
        ):
            play(served.address, jobs(1, execution="linear:4,1,2"))


def test_another_servers_claims_are_not_believed():
    def claiming(_):
        return {
            "actions": STILL + 0.5,
            "depth": "deep",
            "execute_steps": 4,
            "ended_by": 1,
            "phase": "correcting",
        }

    with policy_server(claiming, metadata={}) as served:
        (outcome,) = play(served.address, jobs(1, stop="server"), understands=frozenset())
    assert set(outcome.end.result.executed[:-1]) == {2}
    assert outcome.end.result.driven_steps == 0
    assert (outcome.depths, outcome.served.ended_by) == ([], [])


def test_a_persons_steps_are_told_from_the_policys():
    helped = [False, True, True, False, True]

    def attended(_):
        driven = helped[number] if (number := len(served.messages) - 1) < len(helped) else False
        person = {"actions": STILL[:1] + 0.25, "execute_steps": 1, "phase": "correcting"}
        policy = {"actions": STILL + 0.5, "execute_steps": 2, "phase": "autonomous"}
        return {"depth": 3, "ended_by": "converged", **(person if driven else policy)}

    with policy_server(attended) as served:
        (outcome,) = play(served.address, jobs(1))
    result = outcome.end.result
    assert (result.driven_steps, result.interventions) == (3, 2)
    assert sum(result.executed) == result.steps - 3
    queries = len(served.messages) - 3
    assert len(result.executed) == len(outcome.depths) == queries
    assert len(outcome.served.milliseconds) == len(outcome.served.ended_by) == queries
    seeds = [options["seed"] for options in served.options]
    assert seeds == [starting_seed("near", 1, number) for number in range(len(served.messages))]


def test_another_policy_behind_the_same_address_ends_the_rollout():
    def greet(connection):
        now = "abc" if len(served.paths) <= 2 else "other"
        connection.send(pack({"options": OPTIONS, "fingerprint": now}))

    with policy_server(walk, greet=greet) as served:
        assert len(play(served.address, jobs(1), fingerprint="abc")) == 1
        with pytest.raises(PolicyServerError, match=r"another policy .* is other, not abc"):
            play(served.address, jobs(2, 3), fingerprint="abc", workers=1)
    assert len(served.paths) == 3


def test_a_connection_that_is_lost_between_two_queries_ends_the_rollout():
    closed = threading.Event()

    def handle(connection):
        connection.send(pack({"options": OPTIONS}))
        for frame in connection:
            connection.send(pack(walk(unpack(frame))))
            if not closed.is_set():
                connection.close()
                closed.set()

    class Waiting(LineTask):
        def step(self, action):
            assert closed.wait(timeout=20)  # the client hears of it before it asks again
            time.sleep(0.05)
            return super().step(action)

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(PolicyServerError, match=r"lost the connection|is lost"):
            play(address, jobs(1), make=lambda env, task: Waiting(task))
        server.shutdown()
        thread.join(timeout=10)


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
