"""Execution rules against the paper's formulas, and how they are written down."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.control import (
    EXECUTION_RULES,
    BinaryHorizon,
    ExecutionRule,
    FixedHorizon,
    LinearDecay,
    Session,
    check_fits,
    execution_help,
    parse_execution,
)
from rdvla.errors import ConfigError
from rdvla.types import Array, Prediction
from tests.support.tiny_models import CONFIG, make_observation, make_policy

COUNT = st.integers(1, 40)
RANGE = st.tuples(COUNT, COUNT).map(lambda pair: (max(pair), min(pair)))
DEPTHS = st.lists(st.integers(1, 64), min_size=1, max_size=8)


@settings(deadline=None)
@given(COUNT, DEPTHS)
def test_fixed(actions: int, depths: list[int]) -> None:
    assert FixedHorizon(actions).horizon(torch.tensor(depths)).tolist() == [actions] * len(depths)


@settings(deadline=None)
@given(RANGE, COUNT, DEPTHS)
def test_binary_is_long_up_to_the_limit(lengths: tuple[int, int], tau: int, depths: list[int]) -> None:
    long, short = lengths
    horizon = BinaryHorizon(long, short, tau).horizon(torch.tensor(depths))
    assert horizon.tolist() == [long if k <= tau else short for k in depths]
    assert horizon.dtype == torch.int64


@settings(deadline=None)
@given(RANGE, COUNT, DEPTHS)
def test_linear_loses_one_action_an_iteration(lengths: tuple[int, int], tau: int, depths: list[int]) -> None:
    longest, shortest = lengths
    horizon = LinearDecay(longest, shortest, tau).horizon(torch.tensor(depths))
    assert horizon.tolist() == [max(shortest, longest - max(0, k - tau)) for k in depths]
    assert horizon.dtype == torch.int64


@settings(deadline=None)
@given(RANGE, COUNT)
def test_what_a_rule_says_of_itself_is_read_back(lengths: tuple[int, int], tau: int) -> None:
    rules: list[ExecutionRule] = [FixedHorizon(tau), BinaryHorizon(*lengths, tau), LinearDecay(*lengths, tau)]
    for rule in rules:
        assert parse_execution(rule.describe()) == rule


@dataclass(frozen=True)
class Halving:
    """Half as many actions for every `tau` iterations."""

    name: ClassVar[str] = "halving"
    longest: int = 8
    tau: int = 4

    def horizon(self, depth: Array) -> Array:
        return (self.longest // 2 ** (depth // self.tau)).clip(min=1)

    def describe(self) -> str:
        return f"halving:{self.longest},{self.tau}"


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_new_entry_of_the_table_is_a_rule_everywhere(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTION_RULES, "halving", Halving)
    rule = parse_execution("halving:4,4")
    assert rule == Halving(4, 4) == parse_execution(rule.describe())
    assert "halving:LONGEST,TAU: Half as many actions for every `tau` iterations" in execution_help()
    with pytest.raises(ConfigError, match="up to 4 actions, but a chunk has 3"):
        check_fits(rule, chunk_size=3)

    array = torch.tensor if library == "torch" else np.array
    chunks = [[[10.0 * robot + step] for step in range(4)] for robot in range(3)]
    prediction = Prediction(
        actions=array(chunks),
        depth=array([2, 4, 32]),
        converged=array([True] * 3),
        state=array([[[0.0]]] * 3),
    )
    session = Session(rule)
    assert session.due(3) == [0, 1, 2]
    assert session.accept([0, 1, 2], prediction) == [4, 2, 1]
    assert [action.item() for action in session.next_actions()] == [0, 10, 20]
    assert session.due(3) == [2]

    policy = make_policy(replace(CONFIG, execution="halving:4,2", stop="2"))  # 4 / 2 actions a query
    policy.reset(seed=0)
    taken = [policy.select_action(make_observation(1)) for _ in range(2)]
    policy.reset(seed=0)
    noise = policy.initial_state(1, torch.Generator().manual_seed(0))
    expected = policy.predict(make_observation(1), initial_state=noise).actions
    assert torch.equal(torch.stack(taken, dim=1), expected[:, :2])


def test_a_number_is_a_fixed_horizon() -> None:
    assert parse_execution(" 5 ") == FixedHorizon(5)
    assert parse_execution("binary:8, 4, 6") == BinaryHorizon(long=8, short=4, depth_limit=6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("binery:8,4,6", "Did you mean 'binary'"),
        ("", "unknown execution rule"),
        ("-3", "unknown execution rule"),
        ("²", "unknown execution rule"),
        ("fixed:²", "takes 1 whole number"),
        ("fixed", "takes 1 whole number"),
        ("fixed:0", "actions must be at least 1"),
        ("0", "actions must be at least 1"),
        ("binary:8,4", "takes 3 whole numbers"),
        ("binary:8,4,6,7", "takes 3 whole numbers"),
        ("linear:8,2,fast", "takes 3 whole numbers"),
        ("linear:8,2.5,6", "takes 3 whole numbers"),
        ("binary:4,8,6", r"short \(8\) must not exceed long \(4\)"),
        ("linear:2,8,6", r"shortest \(8\) must not exceed longest \(2\)"),
        ("linear:8,2,0", "depth_limit must be at least 1"),
    ],
)
def test_bad_rules_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_execution(text)


@pytest.mark.parametrize("text", ["9", "binary:9,4,6", "linear:9,2,6"])
def test_more_actions_than_a_chunk_has_are_refused(text: str) -> None:
    rule = parse_execution(text)
    check_fits(rule, chunk_size=9)
    with pytest.raises(ConfigError, match="up to 9 actions, but a chunk has 8"):
        check_fits(rule, chunk_size=8)
