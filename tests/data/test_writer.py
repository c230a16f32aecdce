"""Writing goes on after interruptions, splits files by size, and refuses episodes that do not fit."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rdvla.data import DatasetWriter, Episode, EpisodeDataset
from rdvla.data import encoding as encoding_module
from rdvla.data.formats.lerobot_v3 import assemble as assemble_module
from rdvla.errors import DatasetError, RDVLAError
from rdvla.files import sole_user
from tests.support.datasets import FEATURES, FPS, LENGTHS, STRIDE, make_episode, make_writer, psnr


def test_append_gives_what_writing_at_once_gives(dataset_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "demos"
    writer = make_writer(root)
    for number in range(2):
        writer.add_episode(make_episode(number))
    writer.finalize()
    writer = DatasetWriter.append(root)
    for number in range(2, 4):
        writer.add_episode(make_episode(number))
    writer.finalize()
    one, two = EpisodeDataset(dataset_root, chunk_size=4), EpisodeDataset(root, chunk_size=4)
    for name in ("action", "timestamp", "index", "episode_index", "task_index"):
        np.testing.assert_array_equal(one.column(name), two.column(name))
    np.testing.assert_array_equal(one.images(range(61))["front"], two.images(range(61))["front"])
    assert one.tasks == two.tasks and one.sources == two.sources
    for name, entry in one.statistics.items():
        np.testing.assert_allclose(entry["mean"], two.statistics[name]["mean"], rtol=1e-6)
    assert (root / "data/chunk-000/file-001.parquet").exists()


def test_an_interrupted_append_leaves_the_dataset_and_can_be_done_again(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "demos"
    shutil.copytree(dataset_root, root)
    writer = DatasetWriter.append(root)
    writer.add_episode(make_episode(5))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(assemble_module, "write_info", killed)
        writer.finalize()
    assert EpisodeDataset(root, chunk_size=2).num_episodes == 4
    DatasetWriter.append(root).finalize()
    assert EpisodeDataset(root, chunk_size=2).num_episodes == 5


def test_only_one_process_adds_episodes_at_a_time(dataset_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "demos"
    shutil.copytree(dataset_root, root)
    writer = DatasetWriter.append(root)
    writer.add_episode(make_episode(5))
    with ThreadPoolExecutor(1) as another, sole_user(root):
        for work in (writer.finalize, lambda: DatasetWriter.append(root)):
            with pytest.raises(RDVLAError, match="another process is writing to"):
                another.submit(work).result()
    writer.finalize()
    with pytest.raises(DatasetError, match="there is no episode to write"):
        writer.finalize()
    assert EpisodeDataset(root, chunk_size=2).num_episodes == 5


def test_episodes_that_were_added_before_a_kill_are_not_added_twice_and_others_are_not_lost(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, kept = tmp_path / "demos", tmp_path / "kept"
    shutil.copytree(dataset_root, root)
    writer = DatasetWriter.append(root)
    writer.add_episode(make_episode(5))
    staging = tmp_path / ".demos.staging"
    shutil.copytree(staging, kept)  # as another machine would have kept them

    def killed(_writer: DatasetWriter) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DatasetWriter, "discard", killed)
        writer.finalize()
    assert DatasetWriter.append(root).finished() == {}
    assert EpisodeDataset(root, chunk_size=2).num_episodes == 5
    shutil.rmtree(staging)
    kept.rename(staging)
    with pytest.raises(DatasetError, match=r"were to follow 4 others.*has 5 by now.*set base_episodes to 5"):
        DatasetWriter.append(root)
    specification = staging / "spec.json"
    specification.write_text(json.dumps(json.loads(specification.read_text()) | {"base_episodes": 5}))
    DatasetWriter.append(root).finalize()
    assert EpisodeDataset(root, chunk_size=2).num_episodes == 6


def test_an_interrupted_generation_resumes(tmp_path: Path) -> None:
    root = tmp_path / "demos"
    make_writer(root).add_episode(make_episode(2), number=2)
    half = tmp_path / ".demos.staging/episodes/.000003.0123dead.tmp"
    half.mkdir()
    writer = make_writer(root)
    assert writer.finished() == {2: {"seed": 2}} and not half.exists()
    writer.add_episode(make_episode(0), number=0)
    writer.add_episode(make_episode(1), number=1)
    assert not root.exists()
    writer.finalize([0, 2])
    assert [source["seed"] for source in EpisodeDataset(root, chunk_size=2).sources] == [0, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos"]


def test_files_are_split_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble_module, "DATA_FILE_MB", 1e-4)
    monkeypatch.setattr(assemble_module, "VIDEO_FILE_SECONDS", (LENGTHS[0] + LENGTHS[1]) / FPS)
    writer = make_writer(tmp_path / "demos")
    episodes = [make_episode(number) for number in range(4)]
    for episode in episodes:
        writer.add_episode(episode)
    dataset = EpisodeDataset(writer.finalize(), chunk_size=2)
    assert len(list(writer.root.glob("data/*/*.parquet"))) == 4
    assert len(list(writer.root.glob("videos/observation.images.front/*/*.mp4"))) == 3
    shown = np.concatenate([e.images["front"][e.image_index] for e in episodes])
    assert psnr(shown, dataset.images(range(sum(LENGTHS)))["front"].numpy()) > 38
    assert (dataset.sample_index[:3] == [0, STRIDE, 2 * STRIDE]).all()


def test_episodes_of_another_encoding_get_their_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer(tmp_path / "demos")
    episodes = [make_episode(number) for number in range(4)]
    for number, episode in enumerate(episodes):
        if number == 2:  # the generation goes on after an update
            settings = {
                name: value for name, value in encoding_module.ENCODER_OPTIONS.items() if name != "tune"
            }
            monkeypatch.setattr(encoding_module, "ENCODER_OPTIONS", settings)
        writer.add_episode(episode)
    dataset = EpisodeDataset(writer.finalize(), chunk_size=2)
    assert len(list(writer.root.glob("videos/observation.images.front/*/*.mp4"))) == 2
    shown = np.concatenate([e.images["front"][e.image_index] for e in episodes])
    assert psnr(shown, dataset.images(range(sum(LENGTHS)))["front"].numpy()) > 38


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {"action": np.zeros((5, 4), np.float32)}}, "lacks"),
        ({"task": " "}, "task"),
        ({"image_index": np.array([0, 2, 3, 4, 5])}, "rise"),
        ({"image_index": np.zeros(4, int)}, "expected"),
        ({"source": {"x": float("nan")}}, "JSON"),
    ],
)
def test_episodes_that_do_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    writer = make_writer(tmp_path / "demos")
    good = make_episode(0, length=5)
    with pytest.raises(DatasetError, match=message):
        writer.add_episode(Episode(**{**good.__dict__, **change}))
    assert writer.finished() == {}


@pytest.mark.parametrize("name", ["shape", "dtype", "value", "length", "unknown", "image"])
def test_arrays_that_do_not_fit(tmp_path: Path, name: str) -> None:
    good = make_episode(0, length=5)
    features, images = dict(good.features), dict(good.images)
    if name == "image":
        images["front"] = images["front"][:, :16]
    elif name == "unknown":
        features["actoin"] = features.pop("action")
    else:
        action = np.array(features["action"])
        action[2, 1] = np.nan if name == "value" else 0
        features["action"] = {
            "shape": action[:, :3],
            "dtype": action.astype(complex),
            "length": action[1:],
        }.get(name, action)
    with pytest.raises(DatasetError, match="front" if name == "image" else "act"):
        make_writer(tmp_path / "demos").add_episode(
            Episode(features=features, images=images, task="do", image_index=good.image_index)
        )


def test_an_existing_dataset_is_not_overwritten(dataset_root: Path) -> None:
    with pytest.raises(DatasetError, match="exists already"):
        make_writer(dataset_root)


def test_robots_numbers_are_rounded_to_the_declared_precision(tmp_path: Path) -> None:
    good = make_episode(0)
    precise = np.random.default_rng(0).normal(size=(LENGTHS[0], 4))
    features = {**good.features, "observation.state": precise, "next.success": np.arange(LENGTHS[0]) % 2}
    writer = make_writer(tmp_path / "demos")
    writer.add_episode(Episode(**{**good.__dict__, "features": features}))
    dataset = EpisodeDataset(writer.finalize(), chunk_size=2)
    np.testing.assert_array_equal(dataset.column("observation.state"), precise.astype(np.float32))
    np.testing.assert_array_equal(dataset.column("next.success")[:, 0], np.arange(LENGTHS[0]) % 2 == 1)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("observation.state", np.full((5, 4), 1e300), "observation.state: the value at step 0 is not finite"),
        ("next.success", np.full(5, 0.5), "next.success: expected dtype bool, got float64"),
        ("next.success", np.full(5, 2), "next.success: expected dtype bool, got int64"),
        ("action", np.full((5, 4), (1 << 24) + 1), "action: expected dtype float32, got int64"),
    ],
)
def test_numbers_that_the_declared_type_cannot_hold(
    tmp_path: Path, name: str, values: np.ndarray, message: str
) -> None:
    good = make_episode(0, length=5)
    with pytest.raises(DatasetError, match=message):
        make_writer(tmp_path / "demos").add_episode(
            Episode(**{**good.__dict__, "features": {**good.features, name: values}})
        )


def test_a_recording_that_an_older_version_began_goes_on(tmp_path: Path) -> None:
    """It kept one image size for all cameras, and no rendering or names."""
    make_writer(tmp_path / "demos").add_episode(make_episode(0))
    path = tmp_path / ".demos.staging/spec.json"
    spec = json.loads(path.read_text())
    spec |= {"cameras": list(spec["cameras"]), "image_size": [32, 32]}
    spec["features"] |= {"observation.state": {**spec["features"]["observation.state"], "names": None}}
    path.write_text(json.dumps({name: value for name, value in spec.items() if name != "rendering"}))
    writer = make_writer(tmp_path / "demos")
    assert writer.finished() == {0: {"seed": 0}}
    assert EpisodeDataset(writer.finalize(), chunk_size=2).names("observation.state") is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 30}, "another fps:"),
        ({"image_size": 16}, "another cameras:"),
        ({"features": {**FEATURES, "action": FEATURES["next.success"]}}, "another features:"),
        ({"features": {"action": FEATURES["action"]}}, "another features:"),
        ({"robot_type": "other", "rendering": "full"}, "another robot_type, rendering:"),
    ],
)
def test_an_interrupted_dataset_of_another_kind_is_not_mixed_with(
    tmp_path: Path, change: dict, message: str
) -> None:
    settings = {"fps": FPS, "features": FEATURES, "cameras": ("front",), "image_size": 32}
    DatasetWriter.create(tmp_path / "demos", **settings, robot_type="test", rendering="fast")
    with pytest.raises(DatasetError, match=message):
        DatasetWriter.create(tmp_path / "demos", **(settings | change))


def test_a_damaged_specification_says_what_to_delete(tmp_path: Path) -> None:
    make_writer(tmp_path / "demos")
    (tmp_path / ".demos.staging/spec.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"spec\.json is damaged: delete .*\.demos\.staging"):
        make_writer(tmp_path / "demos")
