"""What is no observation is not called one; datasets that still call it so read as the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdvla.data import DatasetWriter, Episode, EpisodeDataset
from rdvla.data.features import FORMER_NAMES
from rdvla.errors import ConfigError, DatasetError
from tests.support.datasets import FEATURES, LENGTHS, give_former_names, make_episode, make_writer


@pytest.fixture
def former(dataset_root: Path, tmp_path: Path) -> Path:
    return give_former_names(Path(shutil.copytree(dataset_root, tmp_path / "former")))


def test_a_new_dataset_calls_nothing_an_observation_but_cameras_and_state(dataset_root: Path) -> None:
    info = json.loads((dataset_root / "meta/info.json").read_text())
    observations = {name for name in info["features"] if name.startswith("observation")}
    assert observations == {
        "observation.images.front", "observation.images.wrist", "observation.state",
    }  # fmt: skip
    assert {"camera_is_new", "privileged.environment_state"} <= info["features"].keys()


def test_former_names_read_as_the_present_ones(dataset_root: Path, former: Path) -> None:
    assert (
        "observation.camera_is_new" in pq.read_table(former / "data/chunk-000/file-000.parquet").schema.names
    )
    old, new = EpisodeDataset(former, chunk_size=3), EpisodeDataset(dataset_root, chunk_size=3)
    assert old.features == new.features and not old.features.keys() & FORMER_NAMES.keys()
    np.testing.assert_array_equal(old.sample_index, new.sample_index)
    np.testing.assert_array_equal(old.environment_state(range(5)), new.environment_state(range(5)))
    assert old.statistics == new.statistics


def test_datasets_with_former_and_present_names_are_read_together(dataset_root: Path, former: Path) -> None:
    both = EpisodeDataset([dataset_root, former], chunk_size=3)
    assert both.num_frames == 2 * sum(LENGTHS)
    state = both.column("privileged.environment_state")
    np.testing.assert_array_equal(state[: sum(LENGTHS)], state[sum(LENGTHS) :])


def test_episodes_are_added_under_the_names_that_the_dataset_has(former: Path) -> None:
    writer = DatasetWriter.append(former)
    writer.add_episode(make_episode(7))
    writer.finalize()
    info = json.loads((former / "meta/info.json").read_text())
    assert not {"camera_is_new", "privileged.environment_state"} & info["features"].keys()
    for path in former.glob("data/*/*.parquet"):
        assert "observation.environment_state" in pq.read_table(path).schema.names
    dataset = EpisodeDataset(former, chunk_size=3)
    expected = make_episode(7).features["privileged.environment_state"]
    np.testing.assert_array_equal(dataset.column("privileged.environment_state")[sum(LENGTHS) :], expected)
    assert dataset.statistics["privileged.environment_state"]["count"] == [dataset.num_frames]


def test_a_recording_that_an_older_version_began_goes_on(tmp_path: Path) -> None:
    make_writer(tmp_path / "demos").add_episode(make_episode(0), number=0)
    staging = tmp_path / ".demos.staging"
    spec = (staging / "spec.json").read_text()
    (staging / "spec.json").write_text(spec.replace('"privileged.', '"observation.'))
    (table,) = staging.glob("episodes/*/frames.parquet")
    former = {present: old for old, present in FORMER_NAMES.items()}
    content = pq.read_table(table)
    pq.write_table(content.rename_columns([former.get(n, n) for n in content.column_names]), table)
    writer = make_writer(tmp_path / "demos")
    writer.add_episode(make_episode(1), number=1)
    dataset = EpisodeDataset(writer.finalize(), chunk_size=3)
    expected = [make_episode(n).features["privileged.environment_state"] for n in (0, 1)]
    np.testing.assert_array_equal(dataset.column("privileged.environment_state"), np.concatenate(expected))


@pytest.mark.parametrize("name", ["observation.environment_state", "observation.environment_keypoints"])
def test_a_former_name_is_refused_in_a_new_dataset(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"takes? everything below 'observation.'.*{FORMER_NAMES[name]}"):
        DatasetWriter.create(
            tmp_path / "demos",
            fps=10,
            features={**FEATURES, name: FEATURES["action"]},
            cameras=(),
            image_size=32,
        )


def test_an_episode_with_a_former_name_is_told_the_present_one(tmp_path: Path) -> None:
    good = make_episode(0)
    features = dict(good.features)
    features["observation.environment_state"] = features.pop("privileged.environment_state")
    with pytest.raises(DatasetError, match=r"Did you mean 'privileged\.environment_state'"):
        make_writer(tmp_path / "demos").add_episode(
            Episode(features=features, images=good.images, task="do", image_index=good.image_index)
        )
