"""What other tools send becomes what our server takes, or one sentence."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdvla_peers")

from rdvla_client import NonFiniteError, PolicyClient, UnsupportedError
from rdvla_peers.messages import Inputs, Robot, parse_pairs
from tests.support.peers import reach_server
from tests.support.policy_server import policy_server
from tests.support.serving import DoublePolicy, make_facts, open_server

IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)


def inputs(**keys: object) -> Inputs:
    told = {"images": {"camera": "images/camera"}, "state": ["state"], "instruction": "prompt"} | keys
    return Inputs.of({"keys": told, "image_sizes": {"camera": [32, 32]}, "state_dim": 4})


def test_a_message_has_the_servers_keys_and_the_state_in_the_order_given():
    found = inputs().message(
        images={"top": IMAGE, "other": IMAGE},
        sources={"camera": "top"},
        state=[np.array([1.0, 2.0]), np.array([[3.0], [4.0]])],
        instruction="reach",
    )
    assert set(found) == {"images/camera", "state", "prompt"}
    np.testing.assert_array_equal(found["state"], np.float32([1, 2, 3, 4]))
    assert found["images/camera"].shape == (32, 32, 3)


def test_a_policy_without_proprioception_gets_none():
    message = inputs(state=[]).message(
        images={"camera": IMAGE}, sources={"camera": "camera"}, state=[], instruction="reach"
    )
    assert set(message) == {"images/camera", "prompt"}


@pytest.mark.parametrize(
    ("images", "state", "sentence"),
    [
        ({"top": IMAGE}, [np.zeros(4)], r"camera 'camera' is to come from 'camera', but .* has top"),
        ({"camera": IMAGE}, [np.zeros(3)], "takes 4 numbers of proprioception, got 3"),
        ({"camera": IMAGE}, [], "takes 4 numbers of proprioception, got 0"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(images, state, sentence):
    with pytest.raises(UnsupportedError, match=sentence):
        inputs().message(images=images, sources={"camera": "camera"}, state=state, instruction="reach")


def test_cameras_are_the_policys_own_unless_others_are_named():
    assert inputs().sources({}) == {"camera": "camera"}
    assert inputs().sources(parse_pairs(" camera = top ,")) == {"camera": "top"}
    assert parse_pairs({"camera": "top"}) == {"camera": "top"}
    with pytest.raises(UnsupportedError, match="no camera 'front'; it has camera"):
        inputs().sources({"front": "top"})
    with pytest.raises(UnsupportedError, match="must be CAMERA=CAMERA"):
        parse_pairs("top")


def test_foreign_servers_and_several_arrays_of_proprioception_are_refused():
    with pytest.raises(UnsupportedError, match="not `rdvla serve`"):
        Inputs.of({"action_horizon": 10})
    with pytest.raises(UnsupportedError, match="start it with --layout native"):
        inputs(state=["joints", "gripper"])


def test_an_episode_plays_as_much_of_each_chunk_as_the_server_says():
    with reach_server() as (address, policy), PolicyClient(address) as client:
        described = Inputs.of(client.metadata)
        robot = Robot(client, stop=None, execution=None)
        message = described.message(
            images={"top": IMAGE},
            sources=described.sources({"camera": "top"}),
            state=[np.array([0.1, 0.1, 0.9, 0.1])],
            instruction="reach",
        )
        robot.reset()
        first = robot.next_action(message)
        np.testing.assert_allclose(first, [0.1, 0.0], atol=1e-6)
        assert robot.buffered() is not None
        assert robot.buffered() is not None
        assert robot.buffered() is None  # fixed:3
        robot.next_action(message)
        robot.reset()
        assert robot.buffered() is None
        assert len(policy.asked) == 3  # one of them warms it up


def test_rules_of_the_tool_reach_the_server():
    double = DoublePolicy(make_facts(cameras=("camera",), size=32, state_dim=4))
    with open_server(double) as server, PolicyClient(server.address) as client:
        message = inputs().message(
            images={"camera": IMAGE}, sources={"camera": "camera"}, state=[np.zeros(4)], instruction="reach"
        )
        reply = Robot(client, stop="fixed:7", execution="fixed:1").ask(message)
    assert (reply["depth"], len(reply["actions"])) == (7, 1)


def test_actions_that_are_not_finite_reach_no_tool():
    reply = {"actions": np.float32([[0, 1], [np.nan, 1]]), "execute_steps": 1}
    with policy_server(lambda message: reply) as server, PolicyClient(server.address) as client:
        robot = Robot(client, stop=None, execution=None)
        for ask in (robot.ask, robot.next_action):
            with pytest.raises(NonFiniteError, match="not finite"):
                ask({"prompt": "go"})
        assert robot.buffered() is None
