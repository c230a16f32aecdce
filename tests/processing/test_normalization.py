"""Normalisation against its definition, and as the inverse of itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.errors import RDVLAError
from rdvla.processing import Normalizer
from rdvla.processing.normalization import NARROW, bounds

NUMBERS = st.floats(-1e3, 1e3, width=32)
DIMENSIONS = st.lists(st.tuples(NUMBERS, st.floats(0.125, 100, width=32), NUMBERS), min_size=1, max_size=6)


def normalizer(low: list[float], high: list[float], keep: tuple[int, ...] = ()) -> Normalizer:
    return Normalizer.from_statistics({"x": {"q01": low, "q99": high}}, "x", size=len(low), keep=keep)


@settings(deadline=None)
@given(DIMENSIONS)
def test_unnormalize_is_the_inverse(dimensions: list[tuple[float, float, float]]) -> None:
    low = [start for start, _, _ in dimensions]
    ours = normalizer(low, [start + width for start, width, _ in dimensions])
    values = torch.tensor([[value for _, _, value in dimensions]])
    torch.testing.assert_close(ours.unnormalize(ours.normalize(values)), values, rtol=1e-4, atol=1e-2)


def test_percentiles_become_minus_one_and_one() -> None:
    ours = normalizer([-2.0, 10.0], [4.0, 11.0])
    edges = torch.tensor([[-2.0, 10.0], [1.0, 10.5], [4.0, 11.0], [7.0, 9.5]])
    expected = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [2.0, -2.0]])  # beyond them, beyond 1
    torch.testing.assert_close(ours.normalize(edges), expected)
    assert ours.normalize(edges.view(2, 2, 2)).shape == (2, 2, 2)


def test_a_constant_dimension_is_only_shifted() -> None:
    ours = normalizer([5.0], [5.0])
    assert ours.normalize(torch.tensor([5.0, 5.5])[:, None]).flatten().tolist() == [0.0, 0.5]
    assert ours.unnormalize(torch.zeros(1)).item() == 5.0


def test_kept_dimensions_are_left_alone() -> None:
    ours = normalizer([0.0, -3.0], [1.0, 7.0], keep=(1,))
    values = torch.tensor([0.5, 0.8])
    torch.testing.assert_close(ours.normalize(values), torch.tensor([0.0, 0.8]))
    torch.testing.assert_close(ours.unnormalize(values), torch.tensor([0.75, 0.8]))


def test_the_type_of_the_values_stays() -> None:
    assert normalizer([0.0], [1.0]).normalize(torch.zeros(2, 1, dtype=torch.float64)).dtype == torch.float64


GOOD = {"q01": [0.0, 0.0], "q99": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"actions": GOOD}, r"no statistics for 'action'.*Did you mean 'actions'"),
        ({}, "no statistics for 'action'"),
        ({"action": 5}, "no statistics for 'action'"),
        ({"action": {"q01": [0.0, 0.0], "max": [1.0, 1.0]}}, "lack 'q99'"),
        ({"action": GOOD | {"q99": [1.0]}}, "must be 2 finite numbers"),
        ({"action": GOOD | {"q99": [1.0, math.nan]}}, "must be 2 finite numbers"),
        ({"action": GOOD | {"q01": [-math.inf, 0.0]}}, "'q01' of 'action' must be 2 finite numbers"),
        ({"action": GOOD | {"q01": ["low", "lower"]}}, "must be 2 finite numbers"),
        ({"action": GOOD | {"q01": [[0.0], [0.0, 1.0]]}}, "must be 2 finite numbers"),
        ({"action": GOOD | {"q01": 0.0}}, "must be 2 finite numbers"),
        ({"action": GOOD | {"q01": [0.0, 1e300]}}, "must be 2 finite numbers"),
        ({"action": GOOD | {"q01": [0.0, 2.0]}}, "exceeds"),
    ],
)
def test_bad_statistics_are_explained(statistics: dict[str, Any], message: str) -> None:
    with pytest.raises(RDVLAError, match=message):
        Normalizer.from_statistics(statistics, "action", size=2)


@pytest.mark.parametrize("dimension", [2, -1])
def test_only_dimensions_that_exist_are_kept(dimension: int) -> None:
    with pytest.raises(RDVLAError, match=f"cannot keep dimension {dimension} of 'action'"):
        Normalizer.from_statistics({"action": GOOD}, "action", size=2, keep=[dimension])


def test_a_grippers_opening_is_what_published_policies_see() -> None:
    """Outside -1 opens and 1 closes; the policy sees 1 open, 0 closed; the answer is -1 or 1."""
    statistics = {"action": {"q01": [-2.0, 0.0], "q99": [2.0, 1.0]}}
    normalizer = Normalizer.from_statistics(statistics, "action", size=2, keep=(1,), opening=(1,))
    seen = normalizer.normalize(torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.25]]))
    torch.testing.assert_close(seen, torch.tensor([[0.5, 1.0], [-0.5, 0.0], [0.0, 0.75]]))
    given = torch.tensor([[0.5, 0.9], [-0.5, 0.1], [0.0, 0.51]])
    expected = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(normalizer.unnormalize(given), expected)


def test_clipped_values_stay_in_range() -> None:
    statistics = {"state": {"q01": [0.0], "q99": [1.0]}}
    normalizer = Normalizer.from_statistics(statistics, "state", size=1, clip=True)
    values = normalizer.normalize(torch.tensor([[-3.0], [0.25], [9.0]]))
    torch.testing.assert_close(values, torch.tensor([[-1.0], [-0.5], [1.0]]))


# --- bounds ---


def entry_of(values: np.ndarray) -> dict[str, list[float]]:
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    found |= {"q01": np.quantile(values, 0.01, axis=0), "q99": np.quantile(values, 0.99, axis=0)}
    return {name: value.tolist() for name, value in found.items()}


def test_bounds_of_ordinary_dimensions_are_those_of_their_scaling() -> None:
    values = np.random.default_rng(0).normal(0, [1.0, 5.0, 0.2], (4000, 3))
    entry = entry_of(values)
    for scaling, low, high in (
        ("quantiles", entry["q01"], entry["q99"]),
        ("min_max", entry["min"], entry["max"]),
        ("mean_std", values.mean(0) - values.std(0), values.mean(0) + values.std(0)),
    ):
        found = bounds(entry, scaling)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, (low, high), rtol=1e-12)


@pytest.mark.parametrize("scaling", ["quantiles", "min_max", "mean_std"])
def test_no_dimension_explodes(scaling: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (1000, 5))
    values[:, 1] = rng.normal(0, 3e-5, 1000)  # a joint at rest, with the noise of its encoder,
    values[100, 1] = 0.5  # that moves once
    values[:, 2] = rng.normal(0, 1e-7, 1000)  # another one that never moves
    values[:, 3] = 7.0  # a constant
    values[:, 4] = np.arange(1000) == 500  # a button that is pressed once
    low, high = bounds(entry_of(values), scaling)  # type: ignore[arg-type]
    normalizer = Normalizer.from_statistics({"f": {"low": low, "high": high}}, "f", size=5)
    normalized = normalizer.normalize(torch.from_numpy(values))
    assert normalized.abs().max() < 25 and normalized[:, 2].abs().max() < 0.1
    assert torch.equal(normalized[:, 3], torch.zeros(1000, dtype=torch.float64))
    assert normalized[:, 4].abs().max() >= 0.5  # the press is still to be seen
    torch.testing.assert_close(
        normalizer.unnormalize(normalized), torch.from_numpy(values), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("scaling", ["quantiles", "min_max", "mean_std"])
def test_an_arm_at_rest_does_not_explode_when_it_moves(scaling: str) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(-1, 1, (500, 3)), 0.3 + rng.normal(0, 1e-5, (500, 7))], axis=1)
    low, high = bounds(entry_of(values), scaling)  # type: ignore[arg-type]
    normalizer = Normalizer.from_statistics({"f": {"low": low, "high": high}}, "f", size=10)
    assert normalizer.normalize(torch.from_numpy(values))[:, 3:].abs().max() < 0.2
    moved = normalizer.normalize(torch.full((10,), 0.31, dtype=torch.float64))
    usual = {"quantiles": 0.98, "min_max": 1.0, "mean_std": 1 / 3**0.5}[scaling]  # scale of what is uniform
    assert moved.abs().max() < 1.1 * 0.01 / (NARROW * usual)  # 0.01 from rest; 1,000 and more by noise alone


def test_policies_without_bounds_keep_their_numbers() -> None:
    old = Normalizer.from_statistics({"f": {"q01": [0.0, 0.0], "q99": [1e-7, 4.0]}}, "f", size=2)
    assert old.normalize(torch.tensor([5e-8 + 1.0, 3.0])).tolist() == pytest.approx([1.0, 0.5])
