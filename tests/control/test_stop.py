"""Stop rules: what they measure, and how they are written down."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.control import (
    CHANGES,
    STOP_RULES,
    Stop,
    as_stop,
    limits_of,
    parse_stop,
    stop_help,
)
from rdvla.control.stop import Limit, StopRule
from rdvla.engine import Engine
from rdvla.errors import ConfigError, InputError
from tests.support.closeness import assert_stops_clearly
from tests.support.heads import make_context, make_head

STATES = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 5.0]]])
ACTIONS = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_changes_are_what_their_names_say(library: str) -> None:
    expected = {"action_change": 4 / 4, "latent_change": math.sqrt(9 + 1) / 5, "cosine_change": 1 - 20 / 25}
    assert CHANGES.keys() == expected.keys()
    for name, change in CHANGES.items():
        pair = ACTIONS if change.of == "actions" else STATES
        found = change.measure(*(x.numpy() if library == "numpy" else x for x in pair))
        assert found.shape == (1,) and float(found[0]) == pytest.approx(expected[name], abs=1e-6)


def test_every_rule_is_made_of_known_changes_and_is_explained() -> None:
    text = stop_help()
    for name, rule in STOP_RULES.items():
        assert {limit.change for limit in rule.limits} <= CHANGES.keys()
        assert name in text and rule.help in text
        if rule.limits:
            assert Stop(name).parameters == {limit.parameter: limit.default for limit in rule.limits}


def test_a_new_entry_of_the_table_is_a_rule_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    both = StopRule((Limit("action", "action_change", 1e-2), Limit("cosine", "cosine_change", 1e-3)), "both")
    monkeypatch.setitem(STOP_RULES, "both", both)
    stop = parse_stop("both:2e-2:0.3")
    assert stop == Stop("both", action=2e-2, cosine=0.3) == parse_stop(stop.describe())
    head = make_head()
    context, state = make_context(head), head.initial_state(2, torch.Generator().manual_seed(0)).detach()
    assert_stops_clearly(head, context, stop=stop, initial_state=state, tolerance=3e-5)
    plain = head.predict(context, stop=stop, initial_state=state)
    fast = Engine(head).predict(context, stop=stop, initial_state=state)
    assert plain.converged.all() and fast.depth.tolist() == plain.depth.tolist()


def test_limits_are_per_sample() -> None:
    limits = limits_of(
        [8, "action_change:1e-2", Stop("latent_change", threshold=0.1, min_depth=3)],
        batch_size=3,
        max_depth=[5, 40, 6],
    )
    assert limits.below["action_change"].tolist() == [math.inf, 1e-2, math.inf]
    assert limits.below["latent_change"].tolist() == [math.inf, math.inf, 0.1]
    assert limits.min_depth.tolist() == [8, 2, 3] and limits.max_depth.tolist() == [5, 32, 6]
    assert (limits.first, limits.last) == (2, 32)


@pytest.mark.parametrize("stop", [[1, 2], ["8"]])
def test_another_number_of_rules_than_samples_is_refused(stop: list) -> None:
    with pytest.raises(InputError, match="stop rules for 3 samples"):
        limits_of(stop, batch_size=3)
    with pytest.raises(InputError, match="maximum depths for 3 samples"):
        limits_of(8, batch_size=3, max_depth=[1])


def test_depths_may_be_scalars_or_arrays_of_numpy_and_torch() -> None:
    for depth in (8, np.int64(8), np.array(8), torch.tensor(8)):
        assert as_stop(depth) == Stop.fixed(8) == Stop("fixed", min_depth=depth, max_depth=depth)
        assert limits_of("action_change", batch_size=2, max_depth=depth).max_depth.tolist() == [8, 8]
    for depths in ([4, 8], np.array([4, 8]), torch.tensor([4, 8])):
        assert limits_of(depths, batch_size=2).max_depth.tolist() == [4, 8]
        assert limits_of(9, batch_size=2, max_depth=depths).max_depth.tolist() == [4, 8]


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan, math.inf])
def test_a_threshold_is_positive_and_finite(threshold: float) -> None:
    for make in (
        lambda: Stop("action_change", threshold=threshold),
        lambda: parse_stop(f"action_change:{threshold}"),
    ):
        with pytest.raises(ConfigError, match="threshold must be positive and finite"):
            make()


@pytest.mark.parametrize(
    "stop", [2.5, 1.0, True, np.True_, torch.tensor(True), math.nan, None, torch.tensor(8.0)]
)
def test_what_is_no_rule_is_refused(stop: object) -> None:
    with pytest.raises(ConfigError, match="stop must be"):
        as_stop(stop)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("8", Stop.fixed(8)),
        ("fixed:8", Stop.fixed(8)),
        ("action_change", Stop("action_change", threshold=1e-3)),
        ("action_change:5e-4", Stop("action_change", threshold=5e-4)),
        ("latent_change:0.05:4:16", Stop("latent_change", threshold=0.05, min_depth=4, max_depth=16)),
        ("cosine:1e-4", Stop("cosine", threshold=1e-4)),
        ("deferred_action_change:1e-3:0.2", Stop("deferred_action_change", threshold=1e-3, coda_below=0.2)),
        (
            "deferred_action_change:1e-3:0.2:3:9",
            Stop("deferred_action_change", threshold=1e-3, min_depth=3, max_depth=9, coda_below=0.2),
        ),
    ],
)
def test_rules_are_read_from_text_and_written_back(text: str, rule: Stop) -> None:
    assert parse_stop(text) == rule
    assert parse_stop(rule.describe()) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "at least 1"),
        ("acton_change:1e-3", "Did you mean 'action_change'"),
        ("action_change:fast", "cannot read"),
        ("action_change:-1", "positive"),
        ("action_change:1e-3:1:8", "min_depth"),
        ("action_change:1e-3:9:8", "min_depth"),
        ("action_change:1e-3:9", "or action_change:threshold:min_depth:max_depth"),
        ("fixed", "unknown stop rule"),
        ("deferred_action_change:1e-3", "write .* deferred_action_change:threshold:coda_below or"),
        ("deferred_action_change:1e-3:0", "coda_below must be positive"),
        ("", "unknown stop rule"),
    ],
)
def test_bad_rules_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_stop(text)


@settings(deadline=None)
@given(st.floats(min_value=1e-9, max_value=10))
def test_thresholds_are_written_exactly(threshold: float) -> None:
    assert parse_stop(Stop("action_change", threshold=threshold).describe()) == Stop(
        "action_change", threshold=threshold
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "action_chang"}, "Did you mean 'action_change'"),
        ({"rule": "cosine", "min_depth": 1}, "need 2 <= min_depth"),
        ({"rule": "cosine", "max_depth": 1}, "need 2 <= min_depth <= max_depth"),
        ({"rule": "latent_change", "threshold": 0.0}, "threshold must be positive"),
        ({"rule": "deferred_action_change", "coda_below": 0.0}, "coda_below must be positive"),
        ({"rule": "fixed", "min_depth": 0, "max_depth": 0}, "need 1 <= min_depth"),
        ({"rule": "fixed", "max_depth": 8}, "write Stop.fixed"),
        ({"rule": "cosine", "coda_below": 0.1}, "cosine has no 'coda_below', only threshold"),
    ],
)
def test_impossible_rules_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stop(**arguments)
