"""No robot gets an action that is NaN or infinite, whatever the weights and the observation are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rdvla.errors import InputError, NotFiniteError, RDVLAError
from rdvla.policy import RDVLAPolicy
from rdvla.types import Observation
from tests.support.tiny_models import make_observation, make_policy


def with_state(value: float) -> Observation:
    plain = make_observation(2)
    return Observation(plain.images, torch.full((2, 3), value), plain.instruction)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float):
    policy = make_policy()
    with torch.no_grad():
        policy.head.get_parameter("output.weight")[0, 0] = value
    policy.save_pretrained(tmp_path / "policy")
    with pytest.raises(RDVLAError, match=r"model\.safetensors is damaged: head\.output\.weight holds NaN"):
        RDVLAPolicy.from_pretrained(tmp_path / "policy")


def test_weights_that_break_later_reach_no_robot():
    policy = make_policy()
    with torch.no_grad():
        policy.head.get_parameter("output.weight")[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="actions that are NaN or infinite"):
        policy.predict(make_observation(2))
    with pytest.raises(NotFiniteError):
        policy.select_action(make_observation(2))


@pytest.mark.parametrize("value", [1e9, 1e30])
def test_large_states_give_finite_actions(value: float):
    assert make_policy().predict(with_state(value)).actions.isfinite().all()


def test_a_state_that_overflows_names_what_the_robot_sent():
    with pytest.raises(NotFiniteError, match=r"largest number is 3e\+38"):
        make_policy().predict(with_state(3e38))


def test_one_robot_of_a_batch_does_not_take_the_actions_of_others():
    plain = make_observation(2)
    observation = Observation(plain.images, torch.tensor([[0.1] * 3, [3e38] * 3]), plain.instruction)
    with pytest.raises(NotFiniteError) as caught:
        make_policy().predict(observation)
    finite = caught.value.prediction.actions.isfinite().flatten(1).all(dim=1)
    assert finite.tolist() == [True, False]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_initial_state_out_of_range_is_refused(value: float):
    policy = make_policy()
    start = torch.full((2, *policy.head.state_shape), value)
    with pytest.raises(InputError):
        policy.predict(make_observation(2), initial_state=start)


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        (None, "got None"),
        ([None, None], "got None"),
        ("\ud800 push", "half a character at place 0"),
        (["push", "pu\udfffsh"], "half a character at place 2"),
    ],
)
def test_what_is_no_instruction_is_said(instruction: object, said: str):
    plain = make_observation(2)
    with pytest.raises(InputError, match=said):
        Observation(plain.images, plain.state, instruction)  # type: ignore[arg-type]


def test_no_observation_is_said():
    with pytest.raises(InputError, match="no observation"):
        make_policy().predict([])


@pytest.mark.parametrize("depth", [10**6, 10**30])
def test_a_depth_that_would_run_for_hours_is_refused(depth: int):
    with pytest.raises(RDVLAError, match=r"depth|stop must be"):
        make_policy().predict(make_observation(1), stop=depth)
