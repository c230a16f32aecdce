"""LeRobot v2.0 and v2.1 read without conversion: their own faults, and real data against other programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rdvla.data import EpisodeDataset
from rdvla.errors import DatasetError
from tests.support.datasets_strangers import KEY, LENGTHS, Draft, frames, picture, shown, write_lines
from tests.support.shared_data import shared_data


def opened(root: Path, **options: Any) -> EpisodeDataset:
    return EpisodeDataset(root, chunk_size=8, **options)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
@pytest.mark.parametrize("images", ["video", "image"])
def test_both_versions_give_what_v3_gives(tmp_path: Path, version: str, images: str) -> None:
    expected = opened(Draft().write_v3(tmp_path / "v3"))
    draft = Draft(one_video_each=True)
    found = opened(draft.write_v2(tmp_path / "v2", version=version, images=images))
    assert shown(found) == frames() and found.notes == [] and found.robot_type == "toy"
    everything = range(found.num_frames)
    assert torch.equal(found.actions(everything), expected.actions(everything))
    assert torch.equal(found.state(everything), expected.state(everything))
    assert found.instructions(everything) == expected.instructions(everything)
    assert found.statistics == expected.statistics and found.sample_index.tolist() == list(everything)
    pairs = frames()
    image = found.images([20])["front"][0].numpy().astype(int)
    assert np.abs(image - picture(*pairs[20])).max() <= (2 if images == "video" else 0)


def test_versions_are_read_together(tmp_path: Path) -> None:
    roots = [Draft().write_v3(tmp_path / "v3"), Draft(one_video_each=True).write_v2(tmp_path / "v2")]
    joint = EpisodeDataset(roots, chunk_size=8)
    assert shown(joint) == frames() * 2 and joint.num_episodes == 8


def test_folders_files_and_splits_that_do_not_fit(tmp_path: Path) -> None:
    draft = Draft(one_video_each=True)
    draft.info["splits"] = {"train": "0:100"}
    root = draft.write_v2(tmp_path / "d", video_folder="video")
    (root / "data/chunk-000").rename(root / "data/chunk-017")
    for stray in ("data/.DS_Store", "data/chunk-017/._episode_000001.parquet", "video/chunk-009/x.txt"):
        (root / stray).parent.mkdir(exist_ok=True)
        (root / stray).write_text("nothing")
    (root / "meta/episodes_stats.jsonl").write_text("{broken")
    dataset = opened(root)
    assert shown(dataset) == frames() and dataset.notes == []


def test_episodes_that_are_listed_decide(tmp_path: Path) -> None:
    draft = Draft(one_video_each=True)
    root = draft.write_v2(tmp_path / "d")
    lines = [{"episode_index": number, "tasks": [], "length": LENGTHS[number]} for number in (3, 1)]
    lines[0]["length"] = 999
    write_lines(root / "meta/episodes.jsonl", lines)
    write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate("abc")])
    dataset = opened(root)
    assert shown(dataset) == frames(LENGTHS, [1, 3]) and dataset.tasks == ["b"]
    told = " ".join(dataset.notes)
    assert "2 episodes that meta/episodes.jsonl does not list are left out" in told
    assert "episode 3 has 999 frames there and 12 in its data file" in told and "total_episodes is 4" in told
    (root / "meta/episodes.jsonl").unlink()
    dataset = opened(root)
    assert shown(dataset) == frames() and "episodes.jsonl is missing" in dataset.notes[0]


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    draft = Draft(one_video_each=True)
    root = draft.write_v2(tmp_path / "d")
    video = root / f"videos/chunk-000/{KEY}/episode_000001.mp4"
    video.write_bytes(video.read_bytes()[:500])
    dataset = opened(root)
    assert shown(dataset) == frames(LENGTHS, [0, 2, 3]) and "episode_000001.mp4" in dataset.notes[0]
    for name, text in (("meta/tasks.jsonl", '{"task": 3}\n'), ("meta/episodes.jsonl", "{}\n")):
        copy = tmp_path / name.replace("/", "_")
        shutil.copytree(root, copy)
        (copy / name).write_text(text)
        with pytest.raises(DatasetError, match=name):
            opened(copy)
    (root / "data/chunk-000/episode_000002.parquet").unlink()
    with pytest.raises(DatasetError, match=r"episode_000002\.parquet is missing"):
        opened(root)


def test_a_video_with_another_number_of_pictures_than_frames(tmp_path: Path) -> None:
    """More pictures are passed over if the clock is regular; otherwise nobody knows which belong together."""
    draft = Draft(one_video_each=True)
    draft.videos[0].append(draft.videos[0][-1])
    draft.videos[1].append(draft.videos[1][-1])
    del draft.videos[2][-1]
    own = draft.columns["episode_index"] == 1
    draft.columns["timestamp"][own] *= 1.2
    dataset = opened(draft.write_v2(tmp_path / "d"))
    assert shown(dataset) == frames(LENGTHS, [0, 3])
    told = " ".join(dataset.notes)
    assert "1 of the videos of" in told and "2 of 4 episodes are left out" in told and ": 1, 2. " in told


def test_pictures_may_lie_in_files_of_their_own(tmp_path: Path) -> None:
    draft = Draft(one_video_each=True)
    root = draft.write_v2(tmp_path / "d", images="image")
    for path in (root / "data/chunk-000").iterdir():
        table = pq.read_table(path)
        cells = table.column(KEY).to_pylist()
        for row, cell in enumerate(cells):
            name = f"images/{KEY}/{path.stem}/frame_{row:06d}.png"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(cell["bytes"])
            cells[row] = {"bytes": None, "path": name}
        pq.write_table(table.set_column(table.column_names.index(KEY), KEY, pa.array(cells)), path)
    dataset = opened(root)
    assert shown(dataset) == frames()
    before = dataset.fingerprint()
    (root / f"images/{KEY}/episode_000000/frame_000003.png").unlink()
    assert opened(root).fingerprint() != before
    with pytest.raises(DatasetError, match=r"row 3 cannot be read"):
        opened(root).images([3])


# --- real datasets, against pyarrow and PyAV ---


def assert_equal_to_the_files(
    dataset: EpisodeDataset, tables: list[Path], videos: list[Path], camera: str
) -> None:
    start = 0
    for table_path, video_path in zip(tables, videos, strict=True):
        table = pq.read_table(table_path)
        action, state = (np.array(table.column(n).to_pylist()) for n in ("action", "observation.state"))
        own = range(start, start + len(table))
        np.testing.assert_array_equal(dataset.column("action")[own], action)
        np.testing.assert_array_equal(dataset.column("observation.state")[own], state)
        chunk = dataset.actions([start + len(table) - 3])[0].numpy()
        np.testing.assert_allclose(chunk[:3], action[-3:].astype(np.float32))
        np.testing.assert_allclose(chunk[3:], np.repeat(action[-1:].astype(np.float32), 5, axis=0))
        wanted = [0, 17, len(table) - 1]
        found = dataset.images([start + step for step in wanted])[camera].numpy()
        with av.open(str(video_path)) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(pictures) == len(table)
        for image, step in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(image, pictures[step])
        start += len(table)
    assert start == dataset.num_frames


def test_the_real_v21_dataset_with_videos_of_5_of_100_episodes() -> None:
    root = shared_data("g1_v21")
    dataset = opened(root)
    numbers = (29, 30, 31, 59, 82)
    tables = [root / f"data/chunk-000/episode_{n:06d}.parquet" for n in numbers]
    folder = root / "videos/chunk-000/observation.images.cam_high"
    videos = [folder / f"episode_{n:06d}.mp4" for n in numbers]
    assert_equal_to_the_files(dataset, tables, videos, "cam_high")
    assert "95 of 100 episodes are left out" in dataset.notes[0]
    info = json.loads((root / "meta/info.json").read_text())
    assert dataset.names("action") == info["features"]["action"]["names"][0]
    assert dataset.recorded_image_size("cam_high") == (480, 640) and dataset.fps == 30
    assert dataset.robot_type == "Unitree_G1_Inspire"
    assert set(dataset.instructions(range(0, dataset.num_frames, 100))) == {
        "Pick up the yellow bottle on the table."
    }


def test_the_real_v20_dataset_with_metadata_that_contradicts_itself() -> None:
    root = shared_data("gr1_v20") / "robot_sim.PickNPlace"
    dataset = opened(root)
    tables = sorted((root / "data/chunk-000").glob("*.parquet"))
    videos = sorted((root / "videos/chunk-000/observation.images.ego_view").glob("*.mp4"))
    assert_equal_to_the_files(dataset, tables, videos, "ego_view")
    assert dataset.num_episodes == 5 and dataset.cameras == ["ego_view"]
    assert "Camera 'egoview' is left out" in dataset.notes[0]
    values = np.concatenate([np.array(pq.read_table(p).column("action").to_pylist()) for p in tables])
    np.testing.assert_allclose(dataset.statistics["action"]["q99"], np.quantile(values, 0.99, axis=0))
    assert "valid" not in dataset.tasks  # a task of meta/tasks.jsonl that no frame has
    told = [json.loads(line)["tasks"][0] for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    assert [dataset.tasks[dataset.episode_task(episode)] for episode in range(5)] == told
