"""A second dataset format is one file: its content trains like the same content in LeRobot's format v3.0."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rdvla.data import EpisodeDataset, ImageCache, split_episodes
from rdvla.data.formats.base import DatasetFormat, DatasetReader
from rdvla.data.formats.lerobot_v3.reader import LeRobotV3
from rdvla.data.formats.registry import FORMATS, find_format
from rdvla.errors import ConfigError, DatasetError
from rdvla.policy import RDVLAPolicy
from rdvla.processing.fit import ImageFit
from rdvla.training import train
from tests.support.datasets import LENGTHS
from tests.support.json_format import FILE, JsonFormat, write_json_dataset
from tests.support.tiny_training import train_config, write_dataset


@pytest.fixture(autouse=True)
def json_format() -> Iterator[DatasetFormat]:
    known = JsonFormat()
    FORMATS.append(known)
    yield known
    FORMATS.remove(known)


@pytest.fixture
def json_root(dataset_root: Path, tmp_path: Path) -> Path:
    return write_json_dataset(tmp_path / "as_json", EpisodeDataset(dataset_root, chunk_size=1))


def test_the_same_content_is_the_same_dataset(dataset_root: Path, json_root: Path) -> None:
    expected, found = (
        EpisodeDataset(root, chunk_size=3, sample_every=2) for root in (dataset_root, json_root)
    )
    assert (found.fps, found.tasks, found.cameras) == (expected.fps, expected.tasks, expected.cameras)
    assert found.sample_index.tolist() == expected.sample_index.tolist()
    assert split_episodes(found, 0.5, 3) == split_episodes(expected, 0.5, 3)
    frames = np.random.default_rng(0).permutation(found.num_frames)
    for name in ("actions", "action_is_pad", "state", "environment_state"):
        assert torch.equal(getattr(found, name)(frames), getattr(expected, name)(frames))
    assert found.instructions(frames) == expected.instructions(frames)
    assert found.captured_at(frames).tolist() == expected.captured_at(frames).tolist()
    for name in ("index", "frame_index", "episode_index", "task_index", "timestamp", "observation.state"):
        np.testing.assert_array_equal(found.column(name), expected.column(name))
    images = pickle.loads(pickle.dumps(found)).images(frames)
    for camera, pictures in expected.images(frames).items():
        assert torch.equal(images[camera], pictures)
    for kind in ("mean", "q01", "q99"):
        np.testing.assert_allclose(found.statistics["action"][kind], expected.statistics["action"][kind])


def test_it_trains_the_same_policy(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "lerobot", episodes=3, length=9)
    other = write_json_dataset(tmp_path / "as_json", EpisodeDataset(root, chunk_size=1))
    weights = []
    for path in (root, other):
        result = train(
            train_config(path, tmp_path / f"run_{path.name}", steps=4), console=Console(quiet=True)
        )
        assert result.policy_dir is not None
        weights.append(RDVLAPolicy.from_pretrained(result.policy_dir).state_dict())
    torch.testing.assert_close(weights[1], weights[0])


def test_datasets_in_two_formats_are_read_as_one(dataset_root: Path, json_root: Path, tmp_path: Path) -> None:
    alone = EpisodeDataset(dataset_root, chunk_size=3)
    joint = EpisodeDataset([json_root, dataset_root], chunk_size=3)
    assert joint.num_frames == 2 * sum(LENGTHS) and joint.tasks == alone.tasks
    frames = np.array([3, sum(LENGTHS) + 3, 20, sum(LENGTHS) + 20])
    images, actions = joint.images(frames)["front"], joint.actions(frames)
    assert torch.equal(images[::2], images[1::2]) and torch.equal(actions[::2], actions[1::2])
    cache = ImageCache.open_or_build(joint, directory=tmp_path / "cache")
    assert torch.equal(cache.images(frames)["front"], joint.images(joint.captured_at(frames))["front"])
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_images_of_every_format_are_scaled(json_root: Path) -> None:
    full = EpisodeDataset(json_root, chunk_size=3)
    half = EpisodeDataset(json_root, chunk_size=3, fits={"front": ImageFit(16, "pad")})
    images, scaled = (dataset.images([4, 9])["front"].numpy() for dataset in (full, half))
    np.testing.assert_array_equal(scaled, [ImageFit(16, "pad")(image) for image in images])


def test_reading_and_writing_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rdvla.data import DatasetWriter, Episode\n"
        "import rdvla.data.mixture, rdvla.data.locate, rdvla.data.formats.registry"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_format_is_recognised_by_itself_alone(dataset_root: Path, json_root: Path) -> None:
    assert isinstance(find_format(dataset_root), LeRobotV3)
    assert isinstance(find_format(json_root), JsonFormat)
    reader: DatasetReader = JsonFormat().open(json_root)
    assert reader.fingerprint() == JsonFormat().open(json_root).fingerprint()


def test_an_unknown_folder_is_told_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(
        DatasetError, match=r"no dataset format.*Not LeRobot v3\.0 or .*info\.json is missing"
    ) as error:
        EpisodeDataset(tmp_path, chunk_size=2)
    assert f"Not JSON: {tmp_path / FILE} is missing" in str(error.value)
    with pytest.raises(DatasetError, match=r"Not LeRobot v3\.0 or .*notes\.txt is not a folder"):
        EpisodeDataset(tmp_path / "notes.txt", chunk_size=2)


def test_faults_of_another_format_are_named(json_root: Path) -> None:
    (json_root / "front.rgb").unlink()
    with pytest.raises(DatasetError, match=r"front\.rgb"):
        EpisodeDataset(json_root, chunk_size=2).images([0])
    with pytest.raises(ConfigError, match="no camera 'top'"):
        EpisodeDataset(json_root, chunk_size=2, cameras=["top"])
    content = json.loads((json_root / FILE).read_text())
    content["episodes"][1]["features"]["action"][2][0] = float("nan")
    (json_root / FILE).write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=f"{FILE}: 'action' has a value that is not finite"):
        EpisodeDataset(json_root, chunk_size=2)
