"""What is written is what is read, through rdvla's reader and through readers that know nothing of it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from rdvla.data import Episode, EpisodeDataset
from tests.support.datasets import FPS, LENGTHS, psnr

STATISTICS = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}


def test_numbers_and_texts(dataset_root: Path, episodes: list[Episode]) -> None:
    dataset = EpisodeDataset(dataset_root, chunk_size=4)
    for name in episodes[0].features:
        expected = np.concatenate(
            [np.reshape(e.features[name], (len(e.features[name]), -1)) for e in episodes]
        )
        np.testing.assert_array_equal(dataset.column(name), expected)
    assert dataset.sources == [{"seed": number} for number in range(4)]
    assert dataset.instructions([0, LENGTHS[0]]) == ["do 0", "do 1"]
    assert dataset.environment_state([3]).shape == (1, 3)
    assert (dataset.state_dim, dataset.action_dim, dataset.fps) == (4, 4, FPS)


def test_images_are_near_the_originals(dataset_root: Path, episodes: list[Episode]) -> None:
    dataset = EpisodeDataset(dataset_root, chunk_size=4)
    frames = np.random.default_rng(0).permutation(dataset.num_frames)
    images = dataset.images(frames)
    for camera in ("front", "wrist"):
        shown = np.concatenate([e.images[camera][e.image_index] for e in episodes])[frames]
        read = images[camera].numpy()
        assert psnr(shown, read) > 38
        marker = (shown.max(-1) == 255) & (shown.min(-1) == 0)
        assert psnr(shown[marker], read[marker]) > 30  # 4:2:0 chroma would give about 15


def test_reading_in_order_gives_the_same_images(dataset_root: Path) -> None:
    dataset = EpisodeDataset(dataset_root, chunk_size=4, cameras=["wrist"])
    for start in range(0, dataset.num_frames, 5):
        frames = range(start, min(start + 5, dataset.num_frames))
        opened_anew = EpisodeDataset(dataset_root, chunk_size=4, cameras=["wrist"])
        np.testing.assert_array_equal(dataset.images(frames)["wrist"], opened_anew.images(frames)["wrist"])


def test_lerobot_layout(dataset_root: Path) -> None:
    """Read as LeRobot does (`LeRobotDataset.__getitem__`, `_query_videos`): plain parquet, JSON and PyAV."""
    info = json.loads((dataset_root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["splits"] == {"train": "0:4"}
    assert info["total_frames"] == sum(LENGTHS) and info["total_tasks"] == 2 and info["fps"] == FPS
    tasks = pq.read_table(dataset_root / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    table = pq.read_table(dataset_root / info["data_path"].format(chunk_index=0, file_index=0))
    assert str(table.schema.field("timestamp").type) == "float"
    assert str(table.schema.field("action").type).startswith("fixed_size_list")
    assert set(table.column_names) == {n for n, f in info["features"].items() if f["dtype"] != "video"}
    rows = pq.read_table(dataset_root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row in rows:
        data = table.slice(row["dataset_from_index"], row["length"])
        assert set(data.column("episode_index").to_pylist()) == {row["episode_index"]}
        assert row["tasks"] == [tasks.column("task").to_pylist()[data.column("task_index")[0].as_py()]]
        for key, feature in info["features"].items():
            assert {n.rsplit("/")[-1] for n in row if n.startswith(f"stats/{key}/")} == STATISTICS
            if feature["dtype"] == "video":
                assert np.shape(row[f"stats/{key}/q50"]) == (3, 1, 1)
                check_video_times(dataset_root, info, key, row, data.column("timestamp").to_pylist())


def check_video_times(root: Path, info: dict, key: str, row: dict, timestamps: list[float]) -> None:
    names = {"chunk_index": row[f"videos/{key}/chunk_index"], "file_index": row[f"videos/{key}/file_index"]}
    with av.open(str(root / info["video_path"].format(video_key=key, **names))) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == FPS
        loaded = np.array(
            [frame.pts * stream.time_base for frame in container.decode(stream)], dtype=Fraction
        )
    wanted = [row[f"videos/{key}/from_timestamp"] + t for t in timestamps]
    distance = np.abs(np.float32(wanted)[:, None] - loaded.astype(np.float32)[None]).min(1)
    assert distance.max() < 1e-4  # LeRobot's tolerance_s
    length = row[f"videos/{key}/to_timestamp"] - row[f"videos/{key}/from_timestamp"]
    assert length == pytest.approx(row["length"] / FPS)


def test_statistics_are_exact(dataset_root: Path, episodes: list[Episode]) -> None:
    stats = EpisodeDataset(dataset_root, chunk_size=1).statistics
    actions = np.concatenate([e.features["action"] for e in episodes]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["q01"], np.quantile(actions, 0.01, axis=0))
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0))
    stats = json.loads((dataset_root / "meta/stats.json").read_text())
    pixels = np.concatenate([e.images["front"].reshape(-1, 3) for e in episodes]) / 255
    np.testing.assert_allclose(np.ravel(stats["observation.images.front"]["mean"]), pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(stats["observation.images.front"]["std"]), pixels.std(0), rtol=1e-9)
    assert np.shape(stats["observation.images.front"]["q99"]) == (3, 1, 1)
