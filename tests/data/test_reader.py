"""Windows, subsets, the split, and datasets that other programs wrote."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.data import Episode, EpisodeDataset, split_episodes
from rdvla.errors import ConfigError, DatasetError
from tests.support.datasets import LENGTHS, STRIDE, make_episode, make_writer


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_windows_against_a_loop(dataset_root: Path, episodes: list[Episode], data: st.DataObject) -> None:
    chunk = data.draw(st.integers(1, 30))
    dataset = EpisodeDataset(dataset_root, chunk_size=chunk)
    frames = data.draw(st.lists(st.integers(0, sum(LENGTHS) - 1), min_size=1, max_size=8))
    actions, is_pad = dataset.actions(frames), dataset.action_is_pad(frames)
    back, back_pad = dataset.window("observation.state", frames, [-3, 0])
    for b, frame in enumerate(frames):
        number, step = next((e, frame - sum(LENGTHS[:e])) for e in range(4) if frame < sum(LENGTHS[: e + 1]))
        own = episodes[number].features
        for k in range(chunk):
            inside = step + k < LENGTHS[number]
            np.testing.assert_array_equal(actions[b, k], own["action"][step + k if inside else -1])
            assert bool(is_pad[b, k]) is not inside
        np.testing.assert_array_equal(back[b, 0], own["observation.state"][max(step - 3, 0)])
        assert back_pad[b].tolist() == [step < 3, False]


def test_samples_are_the_frames_with_a_new_image(dataset_root: Path) -> None:
    dataset = EpisodeDataset(dataset_root, chunk_size=2, episodes=[1, 3])
    starts = np.cumsum([0, *LENGTHS])
    expected = [r for e in (1, 3) for r in range(starts[e], starts[e + 1], STRIDE)]
    assert dataset.sample_index.tolist() == expected and len(dataset) == len(expected)
    assert dataset.captured_at([1, STRIDE, STRIDE + 3]).tolist() == [0, STRIDE, STRIDE]
    every = EpisodeDataset(dataset_root, chunk_size=2, only_new_images=False)
    assert len(every) == sum(LENGTHS) and len(every.subset([2])) == LENGTHS[2]


def test_a_pickled_dataset_reads_the_same(dataset_root: Path) -> None:
    dataset = EpisodeDataset(dataset_root, chunk_size=2)
    images = dataset.images([5, 30])["front"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).images([5, 30])["front"], images)


def test_split_keeps_episodes_and_tasks_apart(tmp_path: Path) -> None:
    writer = make_writer(tmp_path / "demos")
    for number in range(14):
        writer.add_episode(make_episode(number, length=1))
    dataset = EpisodeDataset(writer.finalize(), chunk_size=2)
    training, validation = split_episodes(dataset, 0.3, 7)
    assert not set(training) & set(validation) and sorted(training + validation) == list(range(14))
    assert [dataset.episode_task(e) for e in validation].count(0) == 2 and len(validation) == 4
    assert (training, validation) == split_episodes(dataset, 0.3, 7)
    assert validation != split_episodes(dataset, 0.3, 8)[1]
    assert split_episodes(dataset, 0.0, 7) == (list(range(14)), [])
    with pytest.raises(ConfigError, match="validation_fraction"):
        split_episodes(dataset, 1.0, 7)


def foreign(dataset_root: Path, root: Path) -> Path:
    """As another program may write it: fewer features, variable lists, an unnamed pandas index."""
    shutil.copytree(dataset_root, root)
    (root / "meta/checksums.json").unlink()
    info = json.loads((root / "meta/info.json").read_text())
    for name in ("privileged.environment_state", "camera_is_new", "next.success"):
        info["features"].pop(name)
    (root / "meta/info.json").write_text(json.dumps(info))
    data = root / "data/chunk-000/file-000.parquet"
    removed = ["privileged.environment_state", "camera_is_new"]
    table = pq.read_table(data).drop_columns(removed)
    lists = pa.array(table.column("action").to_pylist(), pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index("action"), "action", lists)
    pq.write_table(table, data)
    tasks = pq.read_table(root / "meta/tasks.parquet")
    pq.write_table(tasks.rename_columns(["task_index", "__index_level_0__"]), root / "meta/tasks.parquet")
    return root


def test_foreign_dataset(dataset_root: Path, episodes: list[Episode], tmp_path: Path) -> None:
    dataset = EpisodeDataset(foreign(dataset_root, tmp_path / "other"), chunk_size=3)
    assert len(dataset) == sum(LENGTHS) and dataset.environment_state([0]) is None
    np.testing.assert_array_equal(dataset.actions([0])[0], episodes[0].features["action"][:3])
    assert dataset.instructions([0]) == ["do 0"] and dataset.sources[0] == {"seed": 0}


def test_images_stored_in_the_data_files(dataset_root: Path, tmp_path: Path) -> None:
    root = foreign(dataset_root, tmp_path / "other")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] = {n: f for n, f in info["features"].items() if f["dtype"] != "video"}
    info["features"]["observation.image"] = {"dtype": "image", "shape": [8, 8, 3], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    data = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    images = np.random.default_rng(0).integers(0, 256, (len(table), 8, 8, 3), dtype=np.uint8)
    stored = pa.array([{"bytes": png(image), "path": None} for image in images])
    pq.write_table(table.append_column("observation.image", stored), data)
    dataset = EpisodeDataset(root, chunk_size=3)
    np.testing.assert_array_equal(dataset.images([7, 40])["observation.image"], images[[7, 40]])


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="image2pipe") as output:
        stream = output.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "rgb24"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def test_errors_say_what_to_do(dataset_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'front'"):
        EpisodeDataset(dataset_root, chunk_size=2, cameras=["frnt"])
    with pytest.raises(DatasetError, match=r"Did you mean 'observation\.state'"):
        EpisodeDataset(dataset_root, chunk_size=2).column("observation.stat")
    with pytest.raises(DatasetError, match="not a folder"):
        EpisodeDataset(tmp_path / "none", chunk_size=2)
    with pytest.raises(ConfigError, match="chunk_size"):
        EpisodeDataset(dataset_root, chunk_size=0)
    root = foreign(dataset_root, tmp_path / "old")
    text = (root / "meta/info.json").read_text().replace('"v3.0"', '"v1.6"')
    (root / "meta/info.json").write_text(text)
    with pytest.raises(DatasetError, match=r"'v1\.6'"):
        EpisodeDataset(root, chunk_size=2)
