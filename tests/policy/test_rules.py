"""Stop rules, execution rules and starts, as numbers, texts or objects, wherever one is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rdvla.control import (
    BinaryHorizon,
    FixedHorizon,
    Session,
    Stop,
    WarmStart,
    as_execution,
    as_start,
    as_stop,
)
from rdvla.engine import Engine
from rdvla.errors import ConfigError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.heads import Context
from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import Batch
from rdvla.rollout.jobs import Setting
from tests.support.tiny_models import CONFIG, make_observation, make_policy

# One rule in every way it can be written: the depth 3 for all samples.
SAME = [3, "3", "fixed:3", Stop.fixed(3), np.int64(3), torch.tensor(3)]
ADAPTIVE = ["action_change:1e-9:2:3", Stop("action_change", threshold=1e-9, max_depth=3)]  # also ends at 3


def context_of_two() -> tuple[RDVLAPolicy, Context]:
    policy, observation = make_policy(), make_observation(2)
    state = policy.normalize_state(observation.state)
    return policy, policy.context_from(policy.frozen_inputs(observation), state)


def head_depth(stop: Any) -> Any:
    policy, context = context_of_two()
    return policy.head.predict(context, stop=stop).depth


def engine_depth(stop: Any) -> Any:
    policy, context = context_of_two()
    return Engine(policy.head).predict(context, stop=stop).depth


def batch_depth(stop: Any) -> Any:
    policy, observation = make_policy(), make_observation(2)
    state = policy.normalize_state(observation.state)
    actions = torch.zeros(2, 4, 4)
    batch = Batch(policy.frozen_inputs(observation), state, actions, torch.zeros(2, 4, dtype=torch.bool))
    return policy.predict_batch(batch, stop=stop).depth


def default_depth(stop: Any) -> Any:
    """The rule of the configuration, also after it was saved."""
    policy = make_policy(replace(CONFIG, stop=stop))
    assert isinstance(policy.config.stop, str)
    return policy.predict(make_observation(2)).depth


def attribute_depth(stop: Any) -> Any:
    policy = make_policy()
    policy.stop = stop
    return policy.predict(make_observation(2)).depth


TAKERS: dict[str, Callable[[Any], Any]] = {
    "policy.predict": lambda stop: make_policy().predict(make_observation(2), stop=stop).depth,
    "one for each sample": lambda stop: make_policy().predict(make_observation(2), stop=[stop, 3]).depth,
    "policy.predict_batch": batch_depth,
    "policy.stop": attribute_depth,
    "PolicyConfig.stop": default_depth,
    "engine.predict": engine_depth,
    "head.predict": head_depth,
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("stop", [*SAME, *ADAPTIVE], ids=repr)
def test_every_form_of_a_stop_rule_means_the_same(taker: str, stop: Any) -> None:
    assert TAKERS[taker](stop).tolist() == [3, 3]


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("acton_change", "unknown stop rule 'acton_change'.*Did you mean 'action_change'"),
        ("action_change:few", "cannot read the stop rule"),
        (0, "depth must be at least 1"),
        (True, "must be a number of iterations, a Stop, or its text"),
        (2.5, "must be a number of iterations, a Stop, or its text"),
    ],
)
def test_what_is_no_stop_rule_is_said_alike(taker: str, stop: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TAKERS[taker](stop)


@pytest.mark.parametrize("stop", SAME, ids=repr)
def test_evaluations_take_every_form(stop: Any) -> None:
    config = EvaluationConfig("p", "o", stops=(stop, "5"), execution=("fixed:4",))
    assert [setting.stop for setting in config.settings] == ["fixed:3", "fixed:5"]
    assert EvaluationConfig("p", "o", stops=stop, execution=4).settings == (Setting("fixed:3", "fixed:4"),)
    assert Setting.parse(stop, 4) == Setting("fixed:3", "fixed:4")
    assert as_stop(stop) == Stop.fixed(3)


def test_a_rule_that_was_given_as_an_object_is_saved_as_text(tmp_path: Path) -> None:
    stop, execution = Stop("latent_change", threshold=0.1), BinaryHorizon(long=4, short=2, depth_limit=3)
    policy = make_policy(replace(CONFIG, stop=stop, execution=execution, start=WarmStart("final")))
    policy.save_pretrained(tmp_path)
    loaded = RDVLAPolicy.from_pretrained(tmp_path)
    assert (loaded.stop, loaded.execution, loaded.warm_start) == (stop, execution, WarmStart("final"))
    assert loaded.config == policy.config


@pytest.mark.parametrize("execution", [2, "2", "fixed:2", FixedHorizon(2), np.int64(2)], ids=repr)
@pytest.mark.parametrize("start", ["final", WarmStart("final")], ids=repr)
def test_a_session_takes_every_form_of_an_execution_rule_and_a_start(execution: Any, start: Any) -> None:
    session = Session(execution, start)
    assert (session.execution, session.start) == (FixedHorizon(2), WarmStart("final"))
    policy, observation = make_policy(), make_observation(2)
    queried = []
    for _ in range(4):
        queried.append(bool(session.due(2)))
        session.act(policy, observation)
    assert queried == [True, False, True, False]


def test_what_is_no_execution_rule_or_start_is_said() -> None:
    cases = [("fixd:2", "Did you mean 'fixed'"), (0, "at least 1"), (2.5, "number of actions, a rule")]
    for wrong, said in cases:
        with pytest.raises(ConfigError, match=said):
            Session(wrong)
        with pytest.raises(ConfigError, match=said):
            as_execution(wrong)
    with pytest.raises(ConfigError, match="Did you mean 'final'"):
        as_start("finl")
