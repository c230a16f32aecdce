"""The client against `rdvla serve`: the example, a robot with prefetch, and `python -m rdvla_client`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdvla_client import PolicyClient, RobotClient, ServerError
from rdvla_client.__main__ import main, random_observation
from tests.support.policy_server import policy_server
from tests.support.serving import make_message, running_server

EXAMPLE = Path(__file__).parents[2] / "packages" / "rdvla-client" / "examples" / "gym_robot.py"


def test_the_example_is_at_most_twenty_lines_of_code():
    lines = [line.strip() for line in EXAMPLE.read_text().splitlines()]
    documented = ast.parse(EXAMPLE.read_text()).body[0].end_lineno
    assert documented is not None
    assert len([line for line in lines[documented:] if line and not line.startswith("#")]) <= 20


def test_the_example_solves_its_task_through_the_server():
    pytest.importorskip("metaworld")
    with running_server("metaworld") as address:
        run = subprocess.run(
            [sys.executable, EXAMPLE, address], capture_output=True, text=True, timeout=300, check=False
        )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("solved Counts(")
    assert "held=0" in run.stdout


def test_a_robot_with_prefetch_runs_what_the_policy_meant_for_each_step():
    """The double's action is the sum of the state plus its place in the chunk, so step n must get n."""
    executed = []
    with (
        running_server() as address,
        RobotClient(PolicyClient(address), hold=np.zeros(3), wait_s=20, control_hz=0.001) as robot,
    ):
        for step in range(12):
            executed.append(robot.act(make_message(state=(step, 0))).tolist())
        assert robot.counts.held == 0
        assert robot.counts.queries > 4
    np.testing.assert_array_equal(executed, np.repeat(np.arange(12.0)[:, None], 3, axis=1))


def test_options_reach_the_policy_and_wrong_ones_are_named():
    with running_server() as address, PolicyClient(address) as policy:
        assert policy.infer(make_message(), max_depth=2)["depth"] == 2
        assert policy.infer(make_message(), stop="fixed:3")["depth"] == 3
        assert policy.infer(make_message(), execution="fixed:3")["execute_steps"] == 3
        assert policy.infer(make_message())["execute_steps"] == 3
        with pytest.raises(ServerError, match="fixed"):
            policy.infer(make_message(), stop="fixd:3")
        assert policy.infer(make_message())["execute_steps"] == 3  # told again to the new connection


def test_a_wrong_observation_is_answered_with_a_sentence():
    message = {key: value for key, value in make_message().items() if key != "state"}
    with (
        running_server() as address,
        PolicyClient(address) as policy,
        pytest.raises(ServerError, match="lacks 'state'"),
    ):
        policy.infer(message)


def test_the_check_prints_what_a_server_serves_and_how_long_it_takes(capsys):
    with running_server() as address:
        assert main([address, "--queries", "2"]) == 0
    printed = capsys.readouterr().out
    for word in ("policy  double", "ping", "reply", "control steps at 10 Hz"):
        assert word in printed


def test_the_check_of_a_foreign_server_measures_no_replies(capsys):
    with policy_server(metadata={"name": "pi0"}) as server:
        assert main([server.address]) == 0
        assert server.messages == []
    assert "no reply was measured" in capsys.readouterr().out
    assert random_observation({}) is None


def test_the_check_says_that_the_sizes_of_several_states_are_not_told(capsys):
    keys = {"images": {}, "state": ["joints", "gripper"], "instruction": "prompt"}
    with policy_server(metadata={"keys": keys, "image_sizes": {}, "state_dim": 8}) as server:
        assert main([server.address]) == 0
        assert server.messages == []
    printed = capsys.readouterr().out
    assert "joints, gripper and does not say how many numbers each has, so no reply was measured" in printed
    assert "what an observation is" not in printed


def test_the_check_says_why_there_is_no_server(capsys):
    with policy_server() as server:
        address = server.address
    assert main([address]) == 1
    assert "does not answer" in capsys.readouterr().err
    assert main(["ftp://x"]) == 1
