"""A robot's names meet a policy's: what matches is sent in the policy's order, what does not is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rdvla_client import Wiring

METADATA = {
    "keys": {"images": {"front": "images/front"}, "state": ["state"], "instruction": "prompt"},
    "state_dim": 2,
    "action_dim": 2,
    "state_names": ["pan.pos", "grip.pos"],
    "action_names": ["grip.pos", "pan.pos"],
}
OBSERVED = ("pan.pos", "grip.pos", "lift.pos", "front", "wrist")
COMMANDED = ("pan.pos", "grip.pos", "lift.pos")
IMAGE = np.zeros((4, 6, 3), np.uint8)
SEEN = {"pan.pos": 1.0, "grip.pos": 2.0, "lift.pos": 3.0, "front": IMAGE, "wrist": IMAGE + 1}


def wire(changes: dict[str, Any] | None = None, **options: Any) -> Wiring:
    names = {"observed": OBSERVED, "commanded": COMMANDED} | options
    return Wiring.of({**METADATA, **(changes or {})}, **names)


def test_messages_and_commands_are_in_the_policys_order() -> None:
    wiring = wire()
    message = wiring.message(SEEN, "push")
    assert message.keys() == {"images/front", "state", "prompt"}
    np.testing.assert_array_equal(message["state"], np.array([1.0, 2.0], np.float32))
    assert message["prompt"] == "push" and message["images/front"] is IMAGE
    assert wiring.command(np.array([5.0, 6.0])) == {"grip.pos": 5.0, "pan.pos": 6.0}
    np.testing.assert_array_equal(wiring.position(SEEN), [2.0, 1.0])


def test_a_robot_that_does_not_show_what_it_takes_has_no_position() -> None:
    assert wire().position({"pan.pos": 1.0}) is None


def test_other_names_are_matched_by_rename() -> None:
    changes = {
        "action_names": ["gripper", "pan.pos"],
        "keys": {**METADATA["keys"], "images": {"eye": "images/eye"}},
    }
    wiring = wire(changes, rename={"gripper": "grip.pos", "eye": "wrist"})
    np.testing.assert_array_equal(wiring.message(SEEN, "")["images/eye"], IMAGE + 1)
    assert wiring.command([5.0, 6.0]) == {"grip.pos": 5.0, "pan.pos": 6.0}


def test_names_may_be_given_for_a_server_that_has_none() -> None:
    changes = {"state_names": [], "action_names": []}
    wiring = wire(changes, state_names=("lift.pos", "pan.pos"), action_names=("pan.pos", "lift.pos"))
    np.testing.assert_array_equal(wiring.message(SEEN, "")["state"], [3.0, 1.0])


def test_a_policy_without_proprioception_is_sent_none() -> None:
    keys = {**METADATA["keys"], "state": []}
    wiring = wire({"keys": keys, "state_dim": 0, "state_names": []})
    assert wiring.message(SEEN, "").keys() == {"images/front", "prompt"}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"keys": None}, {}, "none of rdvla"),
        ({"keys": {**METADATA["keys"], "state": ["a", "b"]}}, {}, "in 2 parts .*--layout native"),
        ({"action_names": ["grip", "pan.pos"]}, {}, "no 'grip'.*rename={grip: grip.pos}"),
        ({"state_names": ["pan.pos", "tip"]}, {}, "the state 'tip'"),
        ({}, {"observed": ("pan.pos", "grip.pos")}, "the camera 'front'"),
        ({}, {"rename": {"fron": "front"}}, "rename names 'fron'"),
        ({"action_names": []}, {}, "2 numbers of action: give action_names in order"),
        ({"state_names": ["pan.pos", "pan.pos"]}, {}, "'pan.pos' is there twice"),
    ],
)
def test_what_does_not_match_is_refused_with_a_way_out(
    changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        wire(changes, **options)
