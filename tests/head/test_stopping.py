"""Stop rules: what they measure, and how they are written down."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.errors import ConfigError
from rdvla.control import Stop, parse_stop
from rdvla.heads.recurrent.stopping import Iteration


def test_changes_are_what_their_names_say() -> None:
    before = Iteration(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    after = Iteration(torch.tensor([[[0.0, 5.0]]]), torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))
    assert Stop("action_change").change(before, after).item() == pytest.approx(4 / 4)
    assert Stop("latent_change").change(before, after).item() == pytest.approx(math.sqrt(9 + 1) / 5)
    assert Stop("cosine").change(before, after).item() == pytest.approx(1 - 20 / 25, abs=1e-6)


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
        ("deferred_action_change:1e-3:0.2:3:9", Stop("deferred_action_change", threshold=1e-3, 3, 9, coda_below=0.2)),
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
    assert parse_stop(Stop("action_change", threshold=threshold).describe()) == Stop("action_change", threshold=threshold)
