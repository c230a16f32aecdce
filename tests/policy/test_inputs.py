"""A policy takes what robots and simulators hand it, and refuses the rest in one sentence."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rdvla.errors import InputError, UnknownInstructionWarning
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.types import Observation
from tests.support.tiny_models import make_observation, make_policy


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_every_form_of_an_observation_gives_the_same_actions() -> None:
    policy, whole = make_policy(), make_observation(1)
    expected = policy.predict(whole, generator=seeded()).actions
    arrays = whole.numpy()
    single = {camera: image[0] for camera, image in arrays.images.items()}
    for images, state, instruction in (
        (arrays.images, whole.state, whole.instruction),
        (single, arrays.state[0], whole.instruction[0]),
        ({name: Image.fromarray(image) for name, image in single.items()}, whole.state, "push the puck"),
        ({name: np.moveaxis(image, -1, 0) for name, image in single.items()}, whole.state, whole.instruction),
        ({name: [image] for name, image in single.items()}, arrays.state.tolist(), ("push the puck",)),
    ):
        found = policy.predict(Observation(images, state, instruction), generator=seeded()).actions
        assert torch.equal(found.reshape(expected.shape), expected)


def test_an_initial_state_may_come_from_numpy_or_from_the_last_prediction() -> None:
    policy, batch = make_policy(), make_observation(1)
    single = Observation(
        {camera: image[0] for camera, image in batch.images.items()}, batch.state[0], batch.instruction[0]
    )
    start = policy.initial_state(1, seeded())
    assert not start.requires_grad
    expected = policy.predict(batch, initial_state=start)
    for given in (start.numpy(), start.double(), start.double().numpy()):
        assert torch.equal(policy.predict(batch, initial_state=given).actions, expected.actions)
    last = policy.predict(single, initial_state=start).state  # (K, D)
    going_on = policy.predict(single, initial_state=last).actions
    assert torch.equal(going_on, policy.predict(batch, initial_state=expected.state).actions[0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"initial_state": torch.zeros(3, 4, 16)}, r"initial_state must be \(2, 4, 16\), got \(3, 4, 16\)"),
        ({"initial_state": np.zeros((2, 16, 4))}, r"initial_state must be \(2, 4, 16\), got \(2, 16, 4\)"),
        ({"initial_state": torch.full((2, 4, 16), torch.nan)}, "initial_state holds NaN"),
        ({"generator": np.random.default_rng(0)}, r"generator must be such as torch\.Generator\(\)"),
        ({"generator": 0}, "generator must be"),
        ({"max_depth": 2.5}, "maximum depth must be a whole number of at least 1, got 2.5"),
        ({"max_depth": [3, 0]}, "maximum depth must be a whole number of at least 1, got 0"),
    ],
)
def test_other_options_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_policy().predict(make_observation(2), **options)


def test_a_head_takes_initial_states_of_any_library_and_precision() -> None:
    policy, batch = make_policy(), make_observation(2)
    context = policy.context_from(policy.frozen_inputs(batch), policy.normalize_state(batch.state))
    start = policy.initial_state(2, seeded())
    for predict in (policy.engine.predict, policy.head.predict):
        expected = predict(context, stop=3, initial_state=start).actions
        for given in (start.numpy(), start.double(), start.double().numpy()):
            assert torch.equal(predict(context, stop=3, initial_state=given).actions, expected)
        with pytest.raises(InputError, match="initial_state must be"):
            predict(context, stop=3, initial_state=start[:1])
        with pytest.raises(InputError, match="generator must be"):
            predict(context, stop=3, generator=np.random.default_rng(0))
    with pytest.raises(InputError, match="generator must be"):
        policy.initial_state(2, np.random.default_rng(0))  # type: ignore[arg-type]


def test_what_is_no_observation_is_refused() -> None:
    policy = make_policy()
    for call in (policy.predict, policy.select_action, partial(policy.session.act, policy)):
        with pytest.raises(InputError, match=r"takes an Observation\(images, state, instruction\).*got dict"):
            call({"images": {}})  # type: ignore[arg-type]


def test_a_seed_is_a_whole_number() -> None:
    policy, observation = make_policy(), make_observation(2)
    taken = []
    for seed in (7, np.int64(7)):
        policy.reset(seed)
        taken.append(policy.select_action(observation))
    assert torch.equal(*taken)
    for seed in (-1, 1.5, True, "7"):
        with pytest.raises(InputError, match="a seed must be a whole number from 0"):
            policy.reset(seed)  # type: ignore[arg-type]


def test_an_instruction_that_was_not_trained_on_is_warned_of_once(tmp_path: Path) -> None:
    make_policy().save_pretrained(tmp_path / "policy")
    trained = ["push the puck", "Open the  drawer", "close the door"]
    (tmp_path / "policy" / TRAINING).write_text(json.dumps({"instructions": trained}))
    policy = RDVLAPolicy.from_pretrained(tmp_path / "policy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # case and spacing do not count
        policy.predict(
            make_observation(3, instructions=["push the puck", "open THE drawer", "Close the door"])
        )
    with pytest.warns(UnknownInstructionWarning) as warned:
        for _ in range(2):
            policy.predict(make_observation(3, instructions=["push the pukc", "fly", "push the pukc"]))
            policy.select_action(make_observation(1, instructions=["fly"]))
            policy.reset()
    first, second = (str(warning.message) for warning in warned)
    assert "'push the pukc'" in first and first.endswith("Did you mean 'push the puck'?")
    assert "'fly'" in second and second.endswith("It was trained on 'push the puck' and 2 more.")
    assert warned[0].filename == __file__


@pytest.mark.parametrize("records", [{}, {TRAINING: {"steps": 3}}, {TRAINING: {"instructions": []}}])
def test_a_policy_that_does_not_know_its_instructions_says_nothing(records: dict[str, Any]) -> None:
    policy = make_policy()
    policy.records = records
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.predict(make_observation(1, instructions=["fly"]))


def test_the_warning_is_easily_filtered() -> None:
    policy = make_policy()
    policy.records = {TRAINING: {"instructions": ["push the puck"]}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnknownInstructionWarning)
        policy.predict(make_observation(1, instructions=["fly"]))
