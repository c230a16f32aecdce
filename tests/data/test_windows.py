"""The order in which frames are trained on if only a few files are at hand at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.data.windows import WindowedOrder


def order_of(sizes: list[int], window: int, seed: int = 0) -> tuple[WindowedOrder, np.ndarray]:
    shards = np.repeat(np.arange(len(sizes)), sizes)
    return WindowedOrder(shards, window=window, seed=(seed,)), shards


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    window=st.integers(1, 14),
    seed=st.integers(0, 5),
    cut=st.integers(1, 9),
)
def test_every_item_comes_once_per_epoch_and_lies_in_an_open_shard(
    sizes: list[int], window: int, seed: int, cut: int
) -> None:
    order, shards = order_of(sizes, window, seed)
    total = sum(sizes)
    for epoch in range(2):
        taken = order.take(epoch * total, total)
        assert sorted(taken.tolist()) == list(range(total))
        opened: list[int] = []
        for at, item in enumerate(taken.tolist()):
            is_open = order.open_at(epoch * total + at)
            assert shards[item] in is_open
            assert len(is_open) == len(set(is_open)) == min(window, len(sizes))
            opened += [shard for shard in is_open if shard not in opened[-len(is_open) :]]
        assert len(opened) == len(set(opened)), "a shard that closed opens again in the same epoch"
    parts = [order.take(start, cut) for start in range(0, 2 * total, cut)]
    np.testing.assert_array_equal(np.concatenate(parts)[: 2 * total], order.take(0, 2 * total))


def test_a_part_of_the_order_depends_on_the_seed_and_the_position_alone() -> None:
    first, _ = order_of([20] * 9, window=3, seed=4)
    late = first.take(1234, 50)
    again, _ = order_of([20] * 9, window=3, seed=4)
    np.testing.assert_array_equal(again.take(1234, 50), late)
    other, _ = order_of([20] * 9, window=3, seed=5)
    assert not np.array_equal(other.take(1234, 50), late)
    assert not np.array_equal(first.take(0, 180), first.take(180, 180)), "epochs differ"


def test_the_next_shard_is_told_before_it_opens() -> None:
    order, _ = order_of([10] * 8, window=3)
    for position in range(2 * 80 - 1):
        before, after = set(order.open_at(position)), set(order.open_at(position + 1))
        new = after - before
        if (position + 1) % 80 and new:  # within an epoch they open one by one, unless one gave no frame
            assert order.following(position, 3)[0] in new
    assert len(order.following(79, 2)) == 2, "an epoch is followed by the next"


def test_batches_mix_the_frames_of_the_open_shards() -> None:
    order, shards = order_of([1000] * 20, window=5)
    for start in range(0, 20_000, 500):
        # Of 500 frames from 5 open shards with shares of at least 1/5 x 1/H(5) no shard gives them all.
        assert len(set(shards[order.take(start, 500)].tolist())) >= 3


def test_a_window_of_all_shards_is_a_shuffle_of_everything() -> None:
    order, shards = order_of([300] * 4, window=99)
    halves = [shards[order.take(start, 600)] for start in (0, 600)]
    for half in halves:
        counts = np.bincount(half, minlength=4)
        # Hypergeometric: 600 of 1200 with 300 of each shard, sd = sqrt(600 * 1/4 * 3/4 * 600/1199) = 7.5.
        assert np.abs(counts - 150).max() < 6 * 7.5


@pytest.mark.parametrize("window", [1, 2])
def test_an_order_of_one_shard_works(window: int) -> None:
    order, _ = order_of([5], window=window)
    assert sorted(order.take(0, 5).tolist()) == [0, 1, 2, 3, 4]
    assert order.open_at(3) == [0]
