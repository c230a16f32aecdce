"""Merged, split and converted datasets hold the same numbers, instructions and pictures as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rdvla import cli
from rdvla.data import DatasetWriter, Episode, EpisodeDataset
from rdvla.data.transfer.split import parse_episodes
from rdvla.data.transfer.transfer import transfer
from rdvla.errors import ConfigError, DatasetError
from tests.support.datasets import LENGTHS, make_episode, make_writer
from tests.support.flawed_datasets import CAMERA, Columns, sound_columns, write_v21
from tests.support.shared_data import shared_data


def demos(root: Path, numbers: tuple[int, ...]) -> Path:
    writer = make_writer(root)
    for number in numbers:
        writer.add_episode(make_episode(number))
    return writer.finalize()


def one_joint(root: Path, *, names: list[str] | None = None, **settings: Any) -> Path:
    """A dataset of one episode whose facts can be chosen."""
    given = {"fps": 10, "image_size": 32, "robot_type": "arm", "cameras": ("front",)} | settings
    features = {"action": {"dtype": "float32", "shape": (2,), "names": names}}
    writer = DatasetWriter.create(root, features=features, **given)
    size = given["image_size"]
    images = {camera: np.zeros((4, size, size, 3), np.uint8) for camera in given["cameras"]}
    writer.add_episode(Episode({"action": np.ones((4, 2), np.float32)}, images, "wait"))
    return writer.finalize()


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_merging_gives_what_recording_at_once_gives(tmp_path: Path) -> None:
    first, second = demos(tmp_path / "a", (0, 1)), demos(tmp_path / "b", (2, 3))
    together = EpisodeDataset(demos(tmp_path / "all", (0, 1, 2, 3)), chunk_size=4)
    out = tmp_path / "out"
    assert cli.main(["data", "merge", str(first), str(second), str(out)]) == 0
    merged = EpisodeDataset(out, chunk_size=4)
    for name in ("action", "observation.state", "next.success", "camera_is_new"):
        np.testing.assert_array_equal(merged.column(name), together.column(name))
    frames = range(sum(LENGTHS))
    for camera in ("front", "wrist"):  # copied, so equal to the last bit
        np.testing.assert_array_equal(merged.images(frames)[camera], together.images(frames)[camera])
    assert merged.instructions(frames) == together.instructions(frames)
    assert merged.sources[2] == {"seed": 2, "dataset": "b", "episode": 0}
    for name, entry in together.statistics.items():
        np.testing.assert_allclose(merged.statistics[name]["mean"], entry["mean"], rtol=0.02, atol=0.02)


def test_what_was_copied_and_what_comes_next_is_said(tmp_path: Path, capsys) -> None:
    first, second = demos(tmp_path / "a", (0,)), demos(tmp_path / "b", (1,))
    out = tmp_path / "out"
    assert cli.main(["data", "merge", str(first), str(second), str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 episodes, 26 frames" in shown
    assert "videos: 4 copied as they are" in shown
    assert "encoded again" not in shown
    assert f"Next: rdvla train --dataset {out}" in shown


def test_an_episode_in_the_middle_of_a_foreign_video_is_encoded_again_if_it_must(tmp_path: Path) -> None:
    from tests.support.published_datasets import LENGTHS as PUBLISHED
    from tests.support.published_datasets import write_published

    root = write_published(tmp_path / "in", kind="video")
    done = transfer([(root, None)], tmp_path / "out")
    # A keyframe every second frame: only episodes that begin at an even one can be copied.
    starts = np.cumsum([0, *PUBLISHED[:-1]])
    even = int((starts % 2 == 0).sum())
    assert (done.copied, done.encoded) == (2 * even, 2 * (len(PUBLISHED) - even))
    before, after = EpisodeDataset(root, chunk_size=1), EpisodeDataset(tmp_path / "out", chunk_size=1)
    frames = range(sum(PUBLISHED))
    np.testing.assert_array_equal(before.column("action"), after.column("action"))
    for camera, images in before.images(frames).items():
        difference = np.abs(images.numpy().astype(int) - after.images(frames)[camera].numpy())
        assert difference.max() <= 12
        assert difference.mean() < 1


def test_pictures_in_data_files_become_videos(tmp_path: Path) -> None:
    from tests.support.published_datasets import write_published

    root = write_published(tmp_path / "in", kind="image")
    done = transfer([(root, None)], tmp_path / "out")
    assert done.copied == 0
    before, after = EpisodeDataset(root, chunk_size=1), EpisodeDataset(tmp_path / "out", chunk_size=1)
    for camera, images in before.images([0, 8, 20]).items():
        difference = np.abs(images.numpy().astype(int) - after.images([0, 8, 20])[camera].numpy())
        assert difference.mean() < 2


def test_v21_becomes_v30_with_its_streams_copied(tmp_path: Path, capsys) -> None:
    root = write_v21(tmp_path / "in", episodes=3)
    out = tmp_path / "out"
    assert cli.main(["data", "convert", str(root), str(out)]) == 0
    assert "videos: 3 copied as they are" in capsys.readouterr().out
    assert json.loads((out / "meta/info.json").read_text())["codebase_version"] == "v3.0"
    dataset = EpisodeDataset(out, chunk_size=1)
    expected = np.concatenate([sound_columns(index)["action"] for index in range(3)])
    np.testing.assert_array_equal(dataset.column("action"), expected)
    videos = [root / f"videos/chunk-000/{CAMERA}/episode_{index:06d}.mp4" for index in range(3)]
    pictures = np.concatenate([decoded(path) for path in videos])
    stored = next((out / "videos").rglob("*.mp4"))
    np.testing.assert_array_equal(decoded(stored), pictures)


def test_a_fault_in_a_feature_that_nobody_needs_leaves_it_out(tmp_path: Path) -> None:
    def spoil(_index: int, columns: Columns) -> None:
        columns["battery"] = np.full(len(columns["action"]), np.nan)

    root = write_v21(tmp_path / "in", episodes=2, change=spoil)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["battery"] = {"dtype": "float32", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    done = transfer([(root, None)], tmp_path / "out")
    assert any("'battery' is left out" in note for note in done.notes)
    assert "battery" not in EpisodeDataset(tmp_path / "out", chunk_size=1).features


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fps": 20}, "frames per second"),
        ({"names": ["x", "y"]}, "names of 'action'"),
        ({"image_size": 48}, "size of the images of camera 'front'"),
        ({"robot_type": "humanoid"}, "robot type"),
        ({"cameras": ("top",)}, "no camera in common"),
    ],
)
def test_datasets_that_contradict_each_other_are_refused(tmp_path: Path, other, message) -> None:
    first = one_joint(tmp_path / "a", names=["y", "x"])
    second = one_joint(tmp_path / "b", **({"names": ["y", "x"]} | other))
    with pytest.raises(DatasetError, match=message):
        transfer([(first, None), (second, None)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_robot_type_for_all_may_be_given(tmp_path: Path) -> None:
    roots = [one_joint(tmp_path / name, robot_type=name) for name in ("a", "b")]
    out = tmp_path / "out"
    assert cli.main(["data", "merge", *map(str, roots), str(out), "--robot", "both"]) == 0
    assert json.loads((out / "meta/info.json").read_text())["robot_type"] == "both"


def test_cameras_that_not_all_have_are_left_out_and_said(tmp_path: Path) -> None:
    first = one_joint(tmp_path / "a", cameras=("front", "wrist"))
    done = transfer([(first, None), (one_joint(tmp_path / "b"), None)], tmp_path / "out")
    assert "camera 'wrist' is left out, as not all datasets have it" in done.notes
    assert EpisodeDataset(tmp_path / "out", chunk_size=1).recorded_cameras == ["front"]


def test_a_split_divides_every_task_and_loses_nothing(tmp_path: Path) -> None:
    root = demos(tmp_path / "in", tuple(range(8)))
    parts = [tmp_path / "train", tmp_path / "held_out"]
    assert cli.main(["data", "split", str(root), *map(str, parts), "--fraction", "0.75"]) == 0
    first, second = (EpisodeDataset(part, chunk_size=1) for part in parts)
    assert (first.num_episodes, second.num_episodes) == (6, 2)
    assert set(second.tasks) == {"do 0", "do 1"}
    seeds = [source["seed"] for part in (first, second) for source in part.sources]
    assert sorted(seeds) == list(range(8))
    for part in (first, second):
        for number, source in enumerate(part.sources):
            expected = make_episode(source["seed"])
            own = list(part.episode_frames(number))
            np.testing.assert_array_equal(part.column("action")[own], expected.features["action"])


def test_named_episodes_are_the_first_part(tmp_path: Path) -> None:
    root = demos(tmp_path / "in", (0, 1, 2, 3))
    parts = [tmp_path / "a", tmp_path / "b"]
    assert cli.main(["data", "split", str(root), *map(str, parts), "--episodes", "0-1", "3"]) == 0
    seeds = [[s["seed"] for s in EpisodeDataset(part, chunk_size=1).sources] for part in parts]
    assert seeds == [[0, 1, 3], [2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --fraction"),
        (["--fraction", "0.5", "--episodes", "1"], "either --fraction"),
        (["--fraction", "1.5"], "above 0 and below 1"),
        (["--episodes", "7"], "episodes 0 to 3, not 7"),
        (["--episodes", "0-3"], "one of the parts would be empty"),
        (["--episodes", "x"], "numbers and ranges"),
    ],
)
def test_splits_that_cannot_be_are_explained(tmp_path: Path, capsys, options, message) -> None:
    root = demos(tmp_path / "in", (0, 1, 2, 3))
    words = ["data", "split", str(root), str(tmp_path / "a"), str(tmp_path / "b"), *options]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_ranges_of_episodes_are_read() -> None:
    assert parse_episodes(["0-2,9", "4"]) == [0, 1, 2, 4, 9]
    with pytest.raises(ConfigError, match="got '5-3'"):
        parse_episodes(["5-3"])


def test_an_interrupted_merge_goes_on_but_not_with_other_datasets(tmp_path: Path) -> None:
    roots = [demos(tmp_path / name, (number,)) for number, name in enumerate("abc")]

    def stop(done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        transfer([(roots[0], None), (roots[1], None)], out, progress=stop)
    assert not out.exists()
    with pytest.raises(DatasetError, match="another source, or other options"):
        transfer([(roots[2], None), (roots[1], None)], out)
    assert transfer([(roots[0], None), (roots[1], None)], out).episodes == 2


def test_a_merge_that_was_killed_after_its_last_step_is_known_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    roots = [demos(tmp_path / name, (number,)) for number, name in enumerate("ab")]
    out = tmp_path / "out"
    command = ["data", "merge", *map(str, roots), str(out)]

    def killed(_writer: DatasetWriter) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DatasetWriter, "discard", killed)
        transfer([(root, None) for root in roots], out)
    assert (tmp_path / ".out.staging").exists()
    for _ in range(2):
        assert cli.main(command) == 0
        assert "out holds this already, so nothing was written: 2 episodes" in capsys.readouterr().out
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]
    assert cli.main(["data", "merge", str(roots[0]), str(out)]) == 2
    assert cli.main([*command, "--robot", "another"]) == 2
    writer = DatasetWriter.append(roots[1])
    writer.add_episode(make_episode(2))
    writer.finalize()
    assert cli.main(command) == 2
    assert capsys.readouterr().err.count("out exists already") == 3


def test_a_split_goes_on_with_its_second_part(tmp_path: Path, capsys) -> None:
    root = demos(tmp_path / "in", (0, 1, 2))
    command = ["data", "split", str(root), str(tmp_path / "x"), str(tmp_path / "y"), "--episodes", "0"]
    transfer([(root, [0])], tmp_path / "x")
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "x holds this already" in shown and "y is written: 2 episodes" in shown


def test_the_real_gr1_dataset_becomes_v30_without_encoding(tmp_path: Path) -> None:
    root = shared_data("gr1_v20") / "robot_sim.PickNPlace"
    done = transfer([(root, [1, 4])], tmp_path / "out")
    assert (done.episodes, done.copied, done.encoded) == (2, 2, 0)
    video = root / "videos/chunk-000/observation.images.ego_view/episode_000004.mp4"
    stored = decoded(next((tmp_path / "out/videos").rglob("*.mp4")))
    np.testing.assert_array_equal(stored[-328:], decoded(video))
