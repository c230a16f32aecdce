"""What the tests say about close calls is true of any change within the tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdvla.control import CHANGES
from rdvla.types import Trace
from tests.support.closeness import RANGES, assert_no_close_calls


@given(
    name=st.sampled_from(sorted(CHANGES)),
    seed=st.integers(0, 2**20),
    tolerance=st.sampled_from([1e-5, 1e-3, 0.1]),
    step=st.sampled_from([1e-3, 0.1, 3.0]),
)
def test_no_computation_within_the_tolerance_leaves_the_range(
    name: str, seed: int, tolerance: float, step: float
) -> None:
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(4, 3, 5))
    after = before + step * rng.normal(size=before.shape)

    def moved(x: np.ndarray) -> np.ndarray:
        by = rng.normal(size=x.shape) if rng.random() < 0.5 else x * rng.choice([-1, 1])
        if CHANGES[name].of == "actions":
            return x + tolerance * by / np.abs(by).max()
        size = np.sqrt((x**2).sum((1, 2), keepdims=True) / (by**2).sum((1, 2), keepdims=True))
        return x + tolerance * size * by

    measure = CHANGES[name].measure
    low, high = RANGES[name](measure(before, after), tolerance)
    found = measure(moved(before), moved(after))
    assert (low <= found * (1 + 1e-12)).all() and (found <= high * (1 + 1e-12)).all()


def test_every_change_has_a_range() -> None:
    assert RANGES.keys() == CHANGES.keys()


def traced(action: list[float], latent: list[float]) -> Trace:
    changes = {"action_change": action, "latent_change": latent, "cosine_change": latent}
    return Trace(np.zeros((4, 1, 1, 1)), {name: np.array(each)[:, None] for name, each in changes.items()})


NAN = float("nan")


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ("4", None),
        ("latent_change:0.3", None),  # stops at 3; what comes later does not count
        ("latent_change:0.5", "may or may not stop at depth 2"),
        ("latent_change:0.5:3:9", None),  # not asked before 3
        ("latent_change:0.1:2:4", "may or may not stop at depth 4"),  # converges or not
        ("latent_change:0.01", "ends before sample 0 stops"),
        ("action_change:1e-4", "may or may not stop at depth 3"),
        ("deferred_action_change:1e-4:0.15", None),  # the state has not settled at 3
        ("deferred_action_change:1e-4:0.2", "may or may not stop at depth 3"),
    ],
)
def test_close_calls_are_found(stop: str, message: str | None) -> None:
    trace = traced([NAN, 1e-2, 1.001e-4, 1e-6], [NAN, 0.5001, 0.2, 0.1])
    if message is None:
        assert_no_close_calls(trace, stop, tolerance=1e-4)
        return
    with pytest.raises(AssertionError, match=message):
        assert_no_close_calls(trace, stop, tolerance=1e-4)


def test_a_trace_that_ended_earlier_is_no_evidence() -> None:
    with pytest.raises(AssertionError, match="ends too early"):
        assert_no_close_calls(traced([NAN] * 4, [NAN, 0.5, NAN, NAN]), "latent_change:0.3", tolerance=1e-4)
