"""Datasets that the tests of the data room share; nothing may write to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdvla.data import Episode
from tests.support.datasets import make_episode, make_writer


@pytest.fixture(scope="session")
def episodes() -> list[Episode]:
    return [make_episode(number) for number in range(4)]


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]) -> Path:
    writer = make_writer(tmp_path_factory.mktemp("data") / "demos")
    for episode in episodes:
        writer.add_episode(episode)
    return writer.finalize()
