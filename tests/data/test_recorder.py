"""An episode that is recorded step by step is the one that is added as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdvla.data import DatasetWriter, Episode, EpisodeDataset
from rdvla.data.formats.lerobot_v3.recorder import EpisodeRecorder
from rdvla.errors import DatasetError
from tests.support.datasets import FEATURES, FPS, make_episode, make_writer


def play(recorder: EpisodeRecorder, episode: Episode) -> None:
    """Add an episode's steps, with new images only where the cameras took some."""
    index = np.asarray(episode.image_index)
    for step in range(len(index)):
        is_new = step == 0 or index[step] > index[step - 1]
        images = {camera: images[index[step]] for camera, images in episode.images.items()}
        recorder.add({name: v[step] for name, v in episode.features.items()}, images if is_new else None)


def test_step_by_step_gives_what_adding_the_whole_episode_gives(tmp_path: Path) -> None:
    for name in ("whole", "steps"):
        writer = make_writer(tmp_path / name)
        for number in range(2):
            episode = make_episode(number)
            if name == "whole":
                writer.add_episode(episode)
            else:
                with writer.record(episode.task, source=episode.source) as recorder:
                    play(recorder, episode)
                assert len(recorder) == len(episode.features["action"])
        writer.finalize()
    files = sorted(
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*") if path.is_file()
    )
    for file in files:
        whole, steps = tmp_path / "whole" / file, tmp_path / "steps" / file
        if file.suffix == ".parquet":
            assert pq.read_table(whole).equals(pq.read_table(steps)), file
        elif file.name != "checksums.json":
            assert whole.read_bytes() == steps.read_bytes(), file


def test_a_driver_may_reuse_its_buffer(tmp_path: Path) -> None:
    features = {"action": {"dtype": "float32", "shape": (1,), "names": None}}
    writer = DatasetWriter.create(
        tmp_path / "demos", fps=10, features=features, cameras=("front",), image_size=32
    )
    buffer = np.zeros((32, 32, 3), np.uint8)
    with writer.record("wait") as episode:
        for step in range(6):
            buffer[:] = 40 * step
            episode.add({"action": step}, {"front": buffer} if step % 2 == 0 else None)
    dataset = EpisodeDataset(writer.finalize(), chunk_size=1)
    np.testing.assert_array_equal(dataset.column("action")[:, 0], range(6))
    shown = dataset.images(range(6))["front"].float().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(shown, [0, 0, 80, 80, 160, 160], atol=2)
    assert dataset.sample_index.tolist() == [0, 2, 4]


def test_episodes_that_are_discarded_or_fail_leave_nothing(tmp_path: Path) -> None:
    writer = make_writer(tmp_path / "demos")
    with writer.record("do") as recorder:
        play(recorder, make_episode(0))
        recorder.discard()
    with pytest.raises(ZeroDivisionError), writer.record("do") as recorder:
        play(recorder, make_episode(0))
        raise ZeroDivisionError
    with pytest.raises(DatasetError, match="at least one step"), writer.record("do"):
        pass
    assert writer.finished() == {} and not list((tmp_path / ".demos.staging/episodes").iterdir())
    with writer.record("do", number=3) as recorder:
        play(recorder, make_episode(0))
    with pytest.raises(DatasetError, match="number 3 is already there"), writer.record("do", number=3):
        pass
    assert list(writer.finished()) == [3]


def test_a_dataset_without_cameras_is_recorded_too(tmp_path: Path) -> None:
    writer = DatasetWriter.create(tmp_path / "demos", fps=FPS, features=FEATURES, cameras=(), image_size=32)
    with writer.record("do") as recorder:
        for step in range(3):
            recorder.add({name: v[step] for name, v in make_episode(0).features.items()})
    assert EpisodeDataset(writer.finalize(), chunk_size=1).sample_index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros(3)}, r"action: expected shape \(T, 4\), got \(1, 3\)"),
        ({"action": np.full(4, np.nan)}, "action: the value at step 1 is not finite"),
        ({"next.success": 0.5}, "next.success: expected dtype bool"),
        ({"front": np.zeros((32, 32), np.uint8)}, r"camera 'front', step 1: expected a \(32, 32, 3\) uint8"),
        ({"front": np.zeros((32, 32, 3))}, r"camera 'front', step 1: .* got \(32, 32, 3\) float64"),
        ({"font": np.zeros((32, 32, 3), np.uint8)}, "camera 'font' is not in the dataset.*'front'"),
    ],
)
def test_a_step_that_does_not_fit_is_named_and_the_rest_is_kept(
    tmp_path: Path, change: dict, message: str
) -> None:
    good = make_episode(0, length=5)
    features = {name: values[0] for name, values in good.features.items()}
    images = {camera: stack[0] for camera, stack in good.images.items()}
    writer = make_writer(tmp_path / "demos")
    with writer.record("do") as recorder:
        recorder.add(features, images)
        with pytest.raises(DatasetError, match=message):
            recorder.add(
                features | {name: v for name, v in change.items() if name in FEATURES},
                images | {name: v for name, v in change.items() if name not in FEATURES},
            )
        recorder.add(features)
    assert EpisodeDataset(writer.finalize(), chunk_size=1).num_frames == 2


def test_the_first_step_needs_images_and_an_episode_a_task(tmp_path: Path) -> None:
    features = {name: values[0] for name, values in make_episode(0).features.items()}
    writer = make_writer(tmp_path / "demos")
    with pytest.raises(DatasetError, match=r"first step .* needs images"), writer.record("do") as recorder:
        recorder.add(features)
    with pytest.raises(DatasetError, match="needs a task"), writer.record(" "):
        pass


def test_image_statistics_of_long_episodes_come_from_evenly_spaced_images(tmp_path: Path) -> None:
    features = {"action": {"dtype": "float32", "shape": (1,), "names": None}}
    writer = DatasetWriter.create(
        tmp_path / "demos", fps=10, features=features, cameras=("front",), image_size=16
    )
    with writer.record("brighten") as episode:
        for step in range(251):
            episode.add({"action": 0}, {"front": np.full((16, 16, 3), step, np.uint8)})
    record = pq.read_table(writer.finalize() / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[0]
    used = np.arange(0, 251, 4)  # at most a hundred
    found = {
        kind: np.ravel(record[f"stats/observation.images.front/{kind}"]) for kind in ("mean", "max", "count")
    }
    np.testing.assert_allclose(found["mean"], used.mean() / 255)
    np.testing.assert_allclose(found["max"], used.max() / 255)
    assert found["count"] == len(used)
