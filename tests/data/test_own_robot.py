"""What a stranger declares of a robot is what the dataset says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdvla.data import DatasetWriter, EpisodeDataset
from rdvla.errors import ConfigError
from tests.support.datasets import psnr
from tests.support.six_joints import JOINTS, SIZES, UNITS, arm_episode, arm_writer, write_arm_dataset


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arm_dataset(tmp_path_factory.mktemp("arm") / "dataset")


def test_joints_units_and_robot_are_recorded(arm: Path) -> None:
    dataset = EpisodeDataset(arm, chunk_size=4)
    for feature in ("action", "observation.state"):
        assert tuple(dataset.names(feature) or ()) == JOINTS
        assert tuple(dataset.units(feature) or ()) == UNITS
    assert dataset.robot_type == "six_joint_arm"


def test_cameras_keep_their_own_sizes_even_odd_ones(arm: Path) -> None:
    dataset = EpisodeDataset(arm, chunk_size=4)
    assert {camera: dataset.recorded_image_size(camera) for camera in dataset.cameras} == SIZES
    expected, found = arm_episode(1), dataset.images(range(12, 24))
    for camera in SIZES:
        assert psnr(expected.images[camera], found[camera].numpy()) > 35


def test_episodes_are_added_to_all_cameras_and_nothing_that_was_declared_is_lost(tmp_path: Path) -> None:
    root = write_arm_dataset(tmp_path / "dataset", episodes=1)
    before = json.loads((root / "meta/info.json").read_text())["features"]
    writer = DatasetWriter.append(root)
    writer.add_episode(arm_episode(5))
    writer.finalize()
    assert json.loads((root / "meta/info.json").read_text())["features"] == before
    images = EpisodeDataset(root, chunk_size=4).images(range(12, 24))
    assert psnr(arm_episode(5).images["wrist"], images["wrist"].numpy()) > 35


def test_lerobots_own_ways_to_name_joints_are_kept(tmp_path: Path) -> None:
    named = {"dtype": "float32", "shape": (6,), "names": {"motors": list(JOINTS)}}
    writer = arm_writer(tmp_path / "dataset", features={"observation.state": named, "action": named})
    writer.add_episode(arm_episode(0))
    dataset = EpisodeDataset(writer.finalize(), chunk_size=4)
    assert dataset.features["action"]["names"] == {"motors": list(JOINTS)}
    assert tuple(dataset.names("action") or ()) == JOINTS
    DatasetWriter.append(tmp_path / "dataset").discard()


def test_the_rendering_of_simulated_images_is_recorded_and_kept(tmp_path: Path) -> None:
    writer = arm_writer(tmp_path / "dataset", rendering="full")
    writer.add_episode(arm_episode(0))
    writer.finalize()
    writer = DatasetWriter.append(tmp_path / "dataset")
    assert writer.spec.rendering == "full"
    writer.add_episode(arm_episode(1))
    features = json.loads((writer.finalize() / "meta/info.json").read_text())["features"]
    assert [features[f"observation.images.{camera}"]["rendering"] for camera in SIZES] == ["full", "full"]
    assert "rendering" not in features["action"]


def test_quality_is_chosen_by_the_image_size_or_by_hand_and_kept(tmp_path: Path) -> None:
    def written(name: str, **changes: object) -> dict[str, tuple[int, int]]:
        writer = arm_writer(tmp_path / name, **changes)
        writer.add_episode(arm_episode(0, length=4))
        root = writer.finalize()
        assert DatasetWriter.append(root).spec.crf == changes.get("crf")
        features = json.loads((root / "meta/info.json").read_text())["features"]
        return {
            camera: (
                features[f"observation.images.{camera}"]["info"].get("video.crf"),
                (root / f"videos/observation.images.{camera}/chunk-000/file-000.mp4").stat().st_size,
            )
            for camera in SIZES
        }

    usual, sharp, coarse = (
        written(f"crf_{crf}", **({} if crf is None else {"crf": crf})) for crf in (None, 6, 18)
    )
    assert {camera: number for camera, (number, _) in coarse.items()} == {"top": 18, "wrist": 18}
    assert usual["top"][1] == coarse["top"][1] < sharp["top"][1]  # more than 256 pixels
    assert coarse["wrist"][1] < sharp["wrist"][1] == usual["wrist"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": {"top": 64}}, "image_size lacks camera 'wrist'"),
        ({"image_size": {"top": 64, "wrist": 64, "side": 64}}, "image_size names 'side'"),
        ({"image_size": {"top": 64, "wrist": (0, 64)}}, "'wrist' need at least one pixel"),
        ({"cameras": ("top", "top"), "image_size": 64}, "a camera is named twice"),
        ({"cameras": ("top/left",), "image_size": 64}, "a camera name may hold"),
        ({"crf": 52}, "crf must be from 0"),
        ({"fps": 29.97}, "fps must be a positive integer"),
    ],
)
def test_impossible_declarations_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arm_writer(tmp_path / "dataset", **change)


@pytest.mark.parametrize(
    ("fact", "texts"), [("names", list(JOINTS[:5])), ("units", "degrees"), ("units", [1.0] * 6)]
)
def test_names_and_units_must_be_one_text_for_each_value(tmp_path: Path, fact: str, texts: object) -> None:
    feature = {"dtype": "float32", "shape": (6,), "names": None, fact: texts}
    with pytest.raises(ConfigError, match=f"feature 'action': {fact} must be 6 texts"):
        arm_writer(tmp_path / "dataset", features={"action": feature})


def test_tuples_and_numpy_integers_become_plain_json(tmp_path: Path) -> None:
    feature = {"dtype": "float32", "shape": (np.int64(6),), "names": tuple(JOINTS), "units": tuple(UNITS)}
    spec = arm_writer(tmp_path / "dataset", features={"action": feature}).spec
    assert json.loads(json.dumps(spec.as_json()))["features"]["action"] == {
        "dtype": "float32", "shape": [6], "names": list(JOINTS), "units": list(UNITS),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("image_quality", "float32", "'image' in its name"),
        ("observation.gripper_is_open", "bool", "cannot normalise a bool; declare it as float32"),
    ],
)
def test_features_that_lerobot_would_stumble_over_are_refused(
    tmp_path: Path, name: str, dtype: str, message: str
) -> None:
    feature = {"dtype": dtype, "shape": (1,), "names": None}
    with pytest.raises(ConfigError, match=f"{name}.*{message}"):
        arm_writer(tmp_path / "dataset", features={"action": feature | {"dtype": "float32"}, name: feature})
