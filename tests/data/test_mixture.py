"""Several datasets read as one give what each gives alone; those that do not fit are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rdvla.data import EpisodeDataset, FeatureCache, ImageCache, split_episodes
from rdvla.data import feature_plan as cache_module
from rdvla.data.features import ENVIRONMENT_STATE, IMAGE_IS_NEW
from rdvla.errors import ConfigError, DatasetError
from tests.support.datasets import LENGTHS, make_episode, make_writer

JOINTS = {
    "dtype": "float32", "shape": [4], "names": ["a", "b", "c", "d"], "units": ["rad", "rad", "rad", "m"],
}  # fmt: skip
FIRST, SECOND = sum(LENGTHS), LENGTHS[1] + LENGTHS[2]  # frames


@pytest.fixture(scope="module")
def roots(dataset_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The shared dataset, and one with two other episodes of which one repeats a task."""
    writer = make_writer(tmp_path_factory.mktemp("second") / "more")
    for number, task in ((5, "do 1"), (6, "sing")):
        episode = make_episode(number)
        writer.add_episode(type(episode)(**{**episode.__dict__, "task": task}))
    return [dataset_root, writer.finalize()]


@pytest.fixture
def alone(roots: list[Path]) -> list[EpisodeDataset]:
    return [EpisodeDataset(root, chunk_size=3) for root in roots]


def change_info(source: Path, target: Path, **features: object) -> Path:
    shutil.copytree(source, target)
    (target / "meta/checksums.json").unlink()
    info = json.loads((target / "meta/info.json").read_text())
    info |= {
        name: info["features"] | value if name == "features" else value for name, value in features.items()
    }
    (target / "meta/info.json").write_text(json.dumps(info))
    return target


def test_frames_follow_each_other(roots: list[Path], alone: list[EpisodeDataset]) -> None:
    joint = EpisodeDataset(f"{roots[0]}, {roots[1]}", chunk_size=3)
    assert (joint.num_frames, joint.num_episodes) == (FIRST + SECOND, 6)
    assert joint.tasks == ["do 0", "do 1", "sing"]
    everything = [range(FIRST), range(SECOND)]
    for name in ("actions", "state", "environment_state", "action_is_pad"):
        expected = torch.cat([getattr(d, name)(frames) for d, frames in zip(alone, everything, strict=True)])
        assert torch.equal(getattr(joint, name)(range(joint.num_frames)), expected)
    assert joint.instructions(range(joint.num_frames)) == [
        text for d, frames in zip(alone, everything, strict=True) for text in d.instructions(frames)
    ]
    np.testing.assert_array_equal(joint.column("index")[:, 0], np.arange(joint.num_frames))
    np.testing.assert_array_equal(
        joint.column("episode_index")[:, 0], joint.episode_of(range(joint.num_frames))
    )
    expected_frames = [*alone[0].sample_index, *(FIRST + alone[1].sample_index)]
    assert joint.sample_index.tolist() == expected_frames
    assert joint.subset([5]).sample_index.tolist() == [r for r in expected_frames if r >= FIRST + LENGTHS[1]]
    assert joint.sources[4:] == [{"seed": 5}, {"seed": 6}]
    training, validation = split_episodes(joint, 0.5, 0)
    assert sorted([*training, *validation]) == list(range(6))


def test_images_come_from_their_dataset(roots: list[Path], alone: list[EpisodeDataset]) -> None:
    joint = EpisodeDataset(roots, chunk_size=3)
    frames = np.random.default_rng(0).permutation(joint.num_frames)[:20]
    for camera, images in joint.images(frames).items():
        for image, frame in zip(images, frames.tolist(), strict=True):
            own = alone[0].images([frame]) if frame < FIRST else alone[1].images([frame - FIRST])
            assert torch.equal(image, own[camera][0])


def test_statistics_are_those_of_all_values(roots: list[Path], alone: list[EpisodeDataset]) -> None:
    joint = EpisodeDataset(roots, chunk_size=3)
    values = np.concatenate([d.column("action") for d in alone]).astype(np.float64)
    entry = joint.statistics["action"]
    np.testing.assert_allclose(entry["q99"], np.quantile(values, 0.99, axis=0))
    np.testing.assert_allclose(entry["mean"], values.mean(axis=0))
    assert entry["count"] == [FIRST + SECOND]


def test_one_dataset_is_what_it_was(roots: list[Path], alone: list[EpisodeDataset]) -> None:
    assert EpisodeDataset([roots[0]], chunk_size=3).fingerprint() == alone[0].fingerprint()
    written = json.loads((roots[0] / "meta/stats.json").read_text())
    for name, entry in alone[0].statistics.items():
        assert entry == written[name]
    both, turned = (EpisodeDataset(r, chunk_size=3).fingerprint() for r in (roots, roots[::-1]))
    assert len({both, turned, *(d.fingerprint() for d in alone)}) == 4


def test_a_folder_with_a_comma_in_its_name(dataset_root: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset_root, tmp_path / "a,b")
    assert EpisodeDataset(str(tmp_path / "a,b"), chunk_size=3).num_frames == FIRST


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 20}, r"fps is 20\.0 in the former and 80\.0 in the latter"),
        ({"robot_type": "aloha"}, r"the robot type is 'aloha' in the former and 'test' in the latter"),
        (
            {"features": {"action": JOINTS | {"names": ["a", "c", "b", "d"]}}},
            r"the order of the values of 'action' is \['a', 'c', 'b', 'd'\] in the former and \['a', 'b'",
        ),
        (
            {"features": {"action": JOINTS | {"units": ["deg", "deg", "deg", "m"]}}},
            r"the units of 'action' is \['deg', 'deg', 'deg', 'm'\] in the former and \['rad', 'rad'",
        ),
        (
            {"features": {"action": {"dtype": "float32", "shape": [5], "names": None}}},
            r"'action' is \[5\].*\[4\]",
        ),
    ],
)
def test_datasets_that_differ_are_refused(
    roots: list[Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    first = change_info(roots[0], tmp_path / "first", features={"action": JOINTS})
    other = change_info(roots[1], tmp_path / "other", **changes)
    with pytest.raises(DatasetError, match=f"other cannot be read together with .*{message}"):
        EpisodeDataset([first, other], chunk_size=3)


def test_what_nobody_reads_or_declares_is_no_difference(roots: list[Path], tmp_path: Path) -> None:
    features = {"extra": {"dtype": "float32", "shape": [2], "names": None}, "action": JOINTS}
    other = change_info(roots[1], tmp_path / "other", features=features, robot_type=None)
    joint = EpisodeDataset([roots[0], other], chunk_size=3)
    assert joint.num_frames == FIRST + SECOND and "extra" not in joint.features
    assert joint.robot_type == "test" and joint.notes == []


def test_a_training_signal_that_one_dataset_lacks_is_left_out(roots: list[Path], tmp_path: Path) -> None:
    other = change_info(roots[1], tmp_path / "other")
    info = json.loads((other / "meta/info.json").read_text())
    for name in (ENVIRONMENT_STATE, IMAGE_IS_NEW):
        info["features"].pop(name)
    (other / "meta/info.json").write_text(json.dumps(info))
    joint = EpisodeDataset([roots[0], other], chunk_size=3)
    assert joint.environment_state([0]) is None and ENVIRONMENT_STATE not in joint.statistics
    assert any(ENVIRONMENT_STATE in note for note in joint.notes)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_dataset_that_does_not_say_has_a_new_image_in_every_frame(
    roots: list[Path], alone: list[EpisodeDataset], tmp_path: Path, lacking: int
) -> None:
    members = list(roots)
    members[lacking] = change_info(roots[lacking], tmp_path / "other")
    info = json.loads((members[lacking] / "meta/info.json").read_text())
    info["features"].pop(IMAGE_IS_NEW)
    (members[lacking] / "meta/info.json").write_text(json.dumps(info))
    joint = EpisodeDataset(members, chunk_size=3)
    expected = [dataset.column(IMAGE_IS_NEW).astype(bool) for dataset in alone]
    expected[lacking] = np.ones_like(expected[lacking])
    np.testing.assert_array_equal(joint.column(IMAGE_IS_NEW), np.concatenate(expected))
    captured = np.concatenate(
        [alone[0].captured_at(range(FIRST)), FIRST + alone[1].captured_at(range(SECOND))]
    )
    own = slice(0, FIRST) if lacking == 0 else slice(FIRST, None)
    captured[own] = np.arange(FIRST + SECOND)[own]
    np.testing.assert_array_equal(joint.captured_at(range(FIRST + SECOND)), captured)


def test_cameras_by_other_names(roots: list[Path], alone: list[EpisodeDataset]) -> None:
    renamed = EpisodeDataset(
        roots[0],
        chunk_size=3,
        cameras=["hand", "agentview"],
        camera_names={"front": "agentview", "wrist": "hand"},
    )
    images, own = renamed.images([5]), alone[0].images([5])
    assert torch.equal(images["agentview"], own["front"]) and torch.equal(images["hand"], own["wrist"])
    assert list(images) == ["hand", "agentview"] and renamed.recorded_cameras == ["agentview", "hand"]
    with pytest.raises(ConfigError, match="one name"):
        EpisodeDataset(roots[0], chunk_size=3, camera_names={"front": "wrist"})
    with pytest.raises(ConfigError, match=r"no camera 'agentview', only \['front', 'wrist'\].*data\.cameras"):
        EpisodeDataset(roots[0], chunk_size=3, cameras=["agentview"])


def encode(images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
    return {
        "mean": images["front"].float().mean(dim=(1, 2, 3))[:, None],
        "words": torch.tensor([[len(text)] for text in instructions]),
    }


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_cache_is_shared_by_every_selection(
    roots: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr(cache_module, "SHARD_FRAMES", 4)
    joint, second = EpisodeDataset(roots, chunk_size=3), EpisodeDataset(roots[1], chunk_size=3)
    seen: list[int] = []

    def counting(images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
        seen.append(len(instructions))
        return encode(images, instructions)

    def opened(dataset: EpisodeDataset) -> FeatureCache:
        return FeatureCache.open_or_build(
            dataset, dataset.sample_index, counting, key="k", directory=tmp_path, in_memory=in_memory
        )

    opened(second)
    assert not FeatureCache.exists(joint, joint.sample_index, key="k", directory=tmp_path)
    cache = opened(joint)
    assert sum(seen) == len(joint)  # the second dataset's frames were not computed again
    assert FeatureCache.exists(joint, joint.sample_index, key="k", directory=tmp_path)
    frames = np.random.default_rng(1).permutation(joint.num_frames)
    expected = encode(joint.images(joint.captured_at(frames)), joint.instructions(frames))
    found = cache.get(frames)
    torch.testing.assert_close(found["mean"], expected["mean"], atol=0.1, rtol=0)
    assert torch.equal(found["words"], expected["words"])


def test_the_image_cache_holds_the_decoded_images(roots: list[Path], tmp_path: Path) -> None:
    joint = EpisodeDataset(roots, chunk_size=3, cameras=["wrist", "front"])
    assert not ImageCache.exists(joint, directory=tmp_path)
    cache = ImageCache.open_or_build(joint, directory=tmp_path)
    frames = joint.sample_index[::-1].copy()
    for camera, images in joint.images(frames).items():
        assert torch.equal(cache.images(frames)[camera], images)
    assert cache.stacked(frames).shape == (len(frames), 2, 32, 32, 3)
    assert ImageCache.exists(joint, directory=tmp_path)
    assert not ImageCache.exists(EpisodeDataset(roots, chunk_size=3), directory=tmp_path)
