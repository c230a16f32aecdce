"""A robot's control loop against a server that is late, lost, busy or wrong."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from rdvla_client import (
    ActionLimits,
    Backoff,
    Blend,
    Patience,
    PolicyClient,
    ReplyTimeoutError,
    RobotClient,
    ServerError,
    UnsupportedError,
    WireError,
)
from tests.support.policy_server import OPTIONS, Close, Vanish, eventually, policy_server

PATIENCE = Patience(open_s=10, reply_s=20, reconnect_s=0.5, backoff=Backoff(first_s=0.01, longest_s=0.05))
SLOW_HZ = 0.001  # a control step is far longer than a reply, so the next chunk is asked for one step early
HOLD = np.float32([-7.0, -7.0])


def counting(message, *, chunk_size=6, steps=4):
    """A policy that is sure of itself: the action for every step is that step's number."""
    numbers = message["position"] + np.arange(chunk_size, dtype=np.float32)
    return {"actions": np.stack([numbers, numbers], axis=1), "execute_steps": steps}


class Loop:
    """A robot that observes how many of the policy's actions it has executed."""

    def __init__(self, server, **arguments):
        self.client = PolicyClient(server.address, patience=PATIENCE)
        self.robot = RobotClient(self.client, **({"hold": HOLD, "control_hz": SLOW_HZ} | arguments))
        self.position = 0
        self.executed: list[float] = []

    def step(self):
        action = self.robot.act({"position": self.position, "prompt": "go"})
        if not self.robot.last_step.held:
            self.position += 1
            self.executed.append(float(action[0]))
        return action

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.robot.close()


def positions(server):
    return [message["position"] for message in server.messages]


def test_without_prefetch_every_chunk_is_waited_for():
    with policy_server(counting) as server, Loop(server, prefetch=False) as loop:
        for _ in range(9):
            loop.step()
        assert positions(server) == [0, 4, 8]
        assert loop.executed == list(range(9))
        assert loop.robot.counts.held == 0
        assert loop.robot.counts.chunks == loop.robot.counts.queries == 3


def test_with_prefetch_the_next_chunk_is_asked_for_before_the_old_one_ends():
    with policy_server(counting) as server, Loop(server, wait_s=20) as loop:
        for _ in range(10):
            loop.step()
        # Asked at the old chunk's last action, each chunk skips its first: that step is executed already.
        assert positions(server)[:3] == [0, 3, 6]
        assert loop.executed == list(range(10))
        assert loop.robot.counts.held == 0


@pytest.mark.parametrize("execution", ["server", "fixed:3", "until_next", "linear:4,2,6"])
@pytest.mark.parametrize("blend", [None, Blend(2)])
def test_the_robot_follows_the_policy_whatever_the_replies_take(execution, blend):
    generator = np.random.default_rng(0)

    def slow(message):
        time.sleep(generator.uniform(0, 0.02))
        return counting(message)

    arguments = {"execution": execution, "blend": blend, "control_hz": 200}
    with policy_server(slow) as server, Loop(server, **arguments) as loop:
        deadline = time.monotonic() + 60
        while len(loop.executed) < 60 and time.monotonic() < deadline:
            loop.step()
            time.sleep(0.005)
        np.testing.assert_allclose(loop.executed, np.arange(len(loop.executed)), atol=1e-3)
        assert len(loop.executed) >= 60
        assert loop.robot.counts.chunks >= 10


def test_the_robot_holds_and_never_waits_while_a_reply_is_late():
    release = threading.Event()

    def late(message):
        assert release.wait(20)
        return counting(message)

    with policy_server(late) as server, Loop(server) as loop:
        for _ in range(5):
            np.testing.assert_array_equal(loop.step(), HOLD)
        assert loop.robot.last_step.held
        release.set()
        eventually(lambda: bool(loop.step()[0] == 0))
        assert loop.robot.counts.held >= 5
        eventually(lambda: len(server.messages) >= 1)
        assert positions(server)[0] == 0


def test_the_server_is_told_how_many_actions_were_executed():
    with policy_server(counting) as server, Loop(server, wait_s=20) as loop:
        for _ in range(8):
            loop.step()
        assert [options.get("executed") for options in server.options[:3]] == [None, 3, 3]
    with policy_server(counting) as server, Loop(server, prefetch=False, execution="fixed:2") as loop:
        for _ in range(5):
            loop.step()
        assert server.options == [{"execution": "fixed:2"}, {"executed": 2}, {"executed": 2}]


def test_options_go_with_every_query():
    with policy_server(counting) as server:
        with Loop(server, prefetch=False, options={"max_depth": 3, "deadline_ms": 50}) as loop:
            for _ in range(5):
                loop.step()
        for options in server.options:
            assert options["max_depth"] == 3
            assert options["deadline_ms"] == 50


def test_a_foreign_server_needs_a_rule_of_the_robots_own():
    with policy_server(counting, metadata={}) as server:
        with pytest.raises(UnsupportedError, match="fixed:N"):
            Loop(server)
        with pytest.raises(UnsupportedError, match="max_depth"):
            Loop(server, execution=3, options={"max_depth": 3})
        with Loop(server, execution=3, prefetch=False) as loop:
            for _ in range(7):
                loop.step()
            loop.robot.reset()
            loop.step()
        assert positions(server) == [0, 3, 6, 7]
        assert server.options == [{}] * 4


def test_after_a_lost_connection_the_robot_holds_reconnects_and_goes_on():
    failing = [3]

    def answer(message):
        if len(server.messages) >= 2 and failing[0]:
            failing[0] -= 1
            raise Vanish()
        return counting(message)

    with policy_server(answer) as server, Loop(server) as loop:
        eventually(lambda: loop.step() is not None and loop.robot.counts.failures >= 3)
        eventually(lambda: loop.step() is not None and len(loop.executed) > 20)
        assert loop.executed == list(range(len(loop.executed)))
        assert loop.client.connections >= 4
        assert loop.robot.counts.held > 0
        # The server's memory went with the connection, so no query tells it of an earlier chunk's actions.
        sent = list(zip(server.messages, server.options, strict=True))
        assert "executed" not in sent[2][1]


def test_a_server_that_is_gone_for_a_while_is_found_again():
    with policy_server(counting) as server:
        port = int(server.address.split(":")[1])
        loop = Loop(server)
        eventually(lambda: loop.step() is not None and len(loop.executed) >= 2)
    with loop:
        eventually(
            lambda: (
                loop.step() is not None and loop.robot.last_step.held and loop.robot.last_step.problem != ""
            )
        )
        with policy_server(counting, port=port):
            before = len(loop.executed)
            eventually(lambda: loop.step() is not None and len(loop.executed) >= before + 6)
        assert loop.executed == list(range(len(loop.executed)))


def test_a_busy_server_is_asked_again_later():
    left = [2]

    def busy(message):
        if left[0]:
            left[0] -= 1
            raise Close("too many queries", code=1013)
        return counting(message)

    with policy_server(busy) as server, Loop(server, prefetch=False) as loop:
        for _ in range(3):
            loop.step()  # waits until the server has time
        assert loop.executed == [0, 1, 2]
        assert loop.robot.counts.failures == 2


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (Close("the camera 'wrist' is missing"), ServerError, "wrist"),
        ({"actions": [1, 2]}, WireError, "actions"),
        ({"no": 1}, WireError, "actions"),
        ({"actions": np.zeros((0, 2))}, WireError, "shape"),
        ({"actions": np.zeros((4, 3)), "execute_steps": 4}, WireError, "expected"),
        ({"actions": np.zeros((4, 2))}, WireError, "execute_steps"),
    ],
)
def test_what_only_a_person_can_mend_is_raised_in_the_control_loop(reply, error, words):
    def answer(message):
        if len(server.messages) == 1:
            if isinstance(reply, Exception):
                raise reply
            return reply
        return counting(message)

    metadata = {"options": OPTIONS, "action_dim": 2}
    with policy_server(answer, metadata=metadata) as server, Loop(server, prefetch=False) as loop:
        with pytest.raises(error, match=words):
            loop.step()
        loop.step()
        assert loop.executed == [0]


def test_an_observation_that_cannot_be_sent_is_raised_in_the_control_loop():
    with (
        policy_server(counting) as server,
        Loop(server, prefetch=False) as loop,
        pytest.raises(WireError, match="cannot send"),
    ):
        loop.robot.act({"position": 0, "image": object()})


def test_actions_that_are_not_finite_never_reach_the_robot():
    def answer(message):
        reply = counting(message)
        if len(server.messages) in (1, 3):
            reply["actions"][2, 1] = np.nan if len(server.messages) == 1 else np.inf
        return reply

    with policy_server(answer) as server, Loop(server, prefetch=False) as loop:
        np.testing.assert_array_equal(loop.step(), HOLD)
        for _ in range(9):
            assert np.isfinite(loop.step()).all()
        assert loop.robot.counts.refused == 2
        assert loop.robot.counts.held == 2
        assert loop.executed == list(range(8))


def test_limits_change_actions_and_say_so():
    limits = ActionLimits(low=(0, 1), high=5, largest_change=(np.inf, 1))
    with policy_server(counting) as server, Loop(server, prefetch=False, limits=limits) as loop:
        loop.robot.reset(last_action=[0, 0])
        actions = [loop.step().tolist()]
        assert loop.robot.last_step.clipped == (1,)
        actions += [loop.step().tolist() for _ in range(7)]
        assert actions == [[0, 1], [1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [5, 5], [5, 5]]
        assert loop.robot.last_step.clipped == (0, 1)
        assert loop.robot.counts.clipped == 3


def test_hold_may_be_the_last_action_or_a_function():
    gate = threading.Semaphore(1)

    def answer(message):
        assert gate.acquire(timeout=20)
        return counting(message)

    with policy_server(answer) as server, Loop(server, hold="last") as loop:
        assert [loop.step()[0] for _ in range(6)] == [0, 1, 2, 3, 3, 3]  # waits for the first chunk only
        assert loop.robot.counts.held == 2
        gate.release(10)
    with policy_server(answer) as server, Loop(server, hold=lambda seen: [seen["position"], 9]) as loop:
        np.testing.assert_array_equal(loop.step(), [0, 9])


def test_an_overrun_bridges_a_late_reply_and_is_counted():
    gate = threading.Semaphore(1)

    def answer(message):
        assert gate.acquire(timeout=20)
        return counting(message)

    with policy_server(answer) as server, Loop(server, hold="last", overrun=1) as loop:
        assert [loop.step()[0] for _ in range(6)] == [0, 1, 2, 3, 4, 4]
        assert (loop.robot.counts.overrun, loop.robot.counts.held) == (1, 1)
        gate.release(10)
        eventually(lambda: loop.step() is not None and len(loop.executed) > 12)
        assert loop.executed == list(range(len(loop.executed)))
        with pytest.raises(ValueError, match="overrun"):
            Loop(server, overrun=2, prefetch=False)


def test_hold_must_fit_the_robot():
    metadata = {"options": OPTIONS, "action_dim": 2}
    with policy_server(counting, metadata=metadata) as server:
        for hold in (np.zeros(3), [np.nan, 0], "first"):
            with pytest.raises(ValueError, match="hold"):
                Loop(server, hold=hold)
        with (
            Loop(server, hold=lambda observation: np.zeros(3)) as loop,
            pytest.raises(ValueError, match="hold"),
        ):
            loop.step()
        with pytest.raises(ValueError, match="prefetch"):
            Loop(server, execution="until_next", prefetch=False)


def test_holding_the_last_action_before_there_is_one_is_an_error():
    broken = {"actions": np.full((4, 2), np.nan)}
    with policy_server(lambda message: broken) as server, Loop(server, hold="last", prefetch=False) as loop:
        with pytest.raises(ReplyTimeoutError, match="last_action"):
            loop.step()
        loop.robot.reset(last_action=[3, 4])
        np.testing.assert_array_equal(loop.step(), [3, 4])


def test_a_reset_forgets_the_chunk_and_tells_the_server():
    with policy_server(counting) as server, Loop(server, prefetch=False) as loop:
        for _ in range(2):
            loop.step()
        loop.robot.reset()
        loop.step()
        assert positions(server) == [0, 2]
        assert server.options == [{}, {"reset": True}]


def test_a_reply_to_the_last_episode_is_thrown_away():
    asked, release = threading.Event(), threading.Event()

    def answer(message):
        if len(server.messages) == 1:
            asked.set()
            assert release.wait(20)
            return {"actions": np.full((6, 2), 99.0), "execute_steps": 6}
        return counting(message)

    with policy_server(answer) as server, Loop(server) as loop:
        loop.step()
        assert asked.wait(20)
        loop.robot.reset()
        release.set()
        eventually(lambda: loop.step() is not None and len(loop.executed) >= 3)
        assert loop.executed[:3] == [0, 1, 2]
        assert server.options[1] == {"reset": True}


def test_the_observation_may_be_overwritten_at_once():
    with policy_server(lambda message: counting({"position": float(message["state"][0])})) as server:
        client = PolicyClient(server.address)
        state = np.zeros(2)
        with RobotClient(client, hold=HOLD, wait_s=20, control_hz=SLOW_HZ) as robot:
            for step in range(8):
                state[:] = step
                assert robot.act({"state": state})[0] == step
                state[:] = -1


def test_a_step_says_what_it_is():
    with policy_server(counting) as server, Loop(server, prefetch=False) as loop:
        seams = []
        for _ in range(6):
            loop.step()
            seams.append(loop.robot.last_step.seam)
        assert seams == [True, False, False, False, True, False]
        assert loop.robot.last_step.reply["execute_steps"] == 4
        assert loop.robot.last_step.problem == ""


def test_a_chunk_for_what_the_robot_saw_too_long_ago_is_thrown_away():
    asked, release = threading.Event(), threading.Event()

    def answer(message):
        if len(server.messages) == 1:
            asked.set()
            assert release.wait(20)
        return {"actions": np.full((6, 2), message["seen"], np.float32), "execute_steps": 6}

    def act(seen):
        return float(robot.act({"seen": seen})[0])

    with (
        policy_server(answer) as server,
        RobotClient(PolicyClient(server.address), hold=HOLD, control_hz=SLOW_HZ, max_age_s=0.5) as robot,
    ):
        assert act(0) == HOLD[0]
        assert asked.wait(20)
        time.sleep(0.6)  # so old is the observation at least
        release.set()
        executed: list[float] = []
        eventually(lambda: (executed.append(act(1)) or executed[-1]) == 1)
        assert 0 not in executed
        assert robot.counts.late >= 1


@pytest.mark.parametrize("age", [0, -1, math.nan])
def test_the_greatest_age_is_a_positive_time(age):
    with policy_server() as server, pytest.raises(ValueError, match="max_age_s"):
        Loop(server, max_age_s=age)


class Remembering:
    """A policy in this process that notes what it is told, in order."""

    metadata = {"action_dim": 2}
    options = frozenset({"execution"})
    connected, connections = True, 1

    def __init__(self):
        self.told = []

    def connect(self):
        pass

    def infer(self, observation, **options):
        self.told.append(dict(observation))
        return counting(observation)

    def reset(self):
        self.told.append("reset")

    def close(self):
        pass


def test_a_reset_right_after_a_question_sends_nothing_but_observations():
    policy = Remembering()
    with RobotClient(policy, hold=HOLD) as robot:
        for _ in range(50):
            robot.act({"position": 0})
            robot.reset()
        robot.act({"position": 7})
        eventually(lambda: {"position": 7} in policy.told or robot.act({"position": 7}) is None)
    assert all(each in ("reset", {"position": 0}, {"position": 7}) for each in policy.told)
    # The new episode begins with its own observation.
    assert policy.told[policy.told.index({"position": 7}) - 1] == "reset"


@pytest.mark.parametrize("execution", ["server", "fixed:4", "until_next", "linear:4,2,6"])
@pytest.mark.parametrize("blend", [None, Blend(2)])
def test_a_person_who_drives_decides_whatever_the_execution(execution, blend):
    """The person wants 50 instead of the actions of steps 6 to 15."""
    driving = [10]

    def answer(message):
        reply = counting(message) | {"phase": "autonomous"}
        if message["position"] >= 6 and driving[0]:
            driving[0] -= 1
            reply |= {"actions": np.full((1, 2), 50, np.float32), "execute_steps": 1, "phase": "correcting"}
        return reply

    with policy_server(answer) as server, Loop(server, execution=execution, blend=blend, wait_s=20) as loop:
        eventually(lambda: loop.step() is not None and len(loop.executed) >= 40 and not driving[0])
        driven = [step for step, number in enumerate(loop.executed) if number == 50]
        own = [step for step in range(len(loop.executed)) if step not in driven]
        assert 1 <= len(driven) <= 10
        assert [loop.executed[step] for step in own] == own  # no blend with what the person wanted


def test_every_command_of_a_person_is_executed():
    commands = iter(range(1000))

    def answer(message):
        command = np.full((1, 2), next(commands), np.float32)
        return {"actions": command, "execute_steps": 1, "phase": "correcting"}

    with policy_server(answer) as server, Loop(server) as loop:
        eventually(lambda: loop.step() is not None and len(loop.executed) >= 20)
        assert loop.executed == list(range(20))
        assert loop.robot.counts.late == 0
