"""The perception benchmark knows the positions in a state by the state's length, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import perception
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from tests.support.tiny_training import write_dataset


@pytest.mark.parametrize("size", perception.POSITIONS)
def test_positions_are_apart_and_inside_the_state(size: int):
    numbers = [number for axes in perception.POSITIONS[size].values() for number in range(size)[axes]]
    assert len(numbers) == len(set(numbers)) == 3 * len(perception.POSITIONS[size])


def test_a_state_of_another_size_is_named(tmp_path: Path):
    dataset = EpisodeDataset(write_dataset(tmp_path / "data", episodes=1), chunk_size=1, cameras=("front",))
    with pytest.raises(ConfigError, match="has 3 numbers; this benchmark knows what 9 or 18"):
        perception.positions_of(dataset)
