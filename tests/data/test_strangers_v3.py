"""Faults of published LeRobot v3.0 datasets: recovered with the right picture for each frame, or named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from rdvla.data import EpisodeDataset
from rdvla.errors import DatasetError
from tests.support.datasets_strangers import (
    KEY,
    LENGTHS,
    SIZE,
    Draft,
    frames,
    picture,
    shown,
    stray_picture,
    write_video,
)

FROM, TO = f"videos/{KEY}/from_timestamp", f"videos/{KEY}/to_timestamp"
FILE = f"videos/{KEY}/file_index"
VIDEO = f"videos/{KEY}/chunk-000/file-000.mp4"


def opened(root: Path) -> EpisodeDataset:
    return EpisodeDataset(root, chunk_size=4)


def assert_whole(dataset: EpisodeDataset, draft: Draft) -> None:
    """Every frame has its own numbers, picture and instruction."""
    assert shown(dataset) == frames(draft.lengths)
    np.testing.assert_array_equal(dataset.column("action"), draft.columns["action"])
    assert dataset.instructions(range(dataset.num_frames)) == [
        draft.tasks[task] for task in draft.columns["task_index"]
    ]


# --- meta/episodes and the data files ---


def stale_file(draft: Draft) -> None:
    draft.lines[2]["data/file_index"] = 0


def restarting(draft: Draft) -> None:
    for line in draft.lines[2:]:
        line["dataset_from_index"] -= 21
        line["dataset_to_index"] -= 21


def renumbered(draft: Draft) -> None:
    draft.lines[2]["episode_index"] = 7


def without_columns(draft: Draft) -> None:
    for line in draft.lines:
        for name in ("length", "data/chunk_index", "dataset_from_index", "dataset_to_index", TO):
            del line[name]


def no_video_pointer(draft: Draft) -> None:
    draft.lines[2][f"videos/{KEY}/chunk_index"] = draft.lines[2][FILE] = None


def floats(draft: Draft) -> None:
    for line in draft.lines:
        line[FILE], line["data/file_index"] = float(line[FILE]), float(line["data/file_index"])


def twice(draft: Draft) -> None:
    draft.lines.append(dict(draft.lines[1]))


@pytest.mark.parametrize(
    ("spoil", "noted"),
    [
        (stale_file, "1 episodes are in other data files"),
        (restarting, ""),
        (renumbered, "episode 7 has another number"),
        (without_columns, ""),
        (no_video_pointer, ""),
        (floats, ""),
        (twice, ""),
    ],
)
def test_episodes_are_found_in_the_data(tmp_path: Path, spoil: Callable[[Draft], None], noted: str) -> None:
    draft = Draft(files=(0, 0, 1, 1))
    spoil(draft)
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert_whole(dataset, draft)
    assert len(dataset.notes) == bool(noted) and noted in "".join(dataset.notes)


def test_rows_and_episodes_may_lie_in_any_order(tmp_path: Path) -> None:
    draft = Draft(files=(1, 0, 1, 0))
    shuffled = draft.write_v3(tmp_path / "d", order=np.random.default_rng(0).permutation)
    assert_whole(opened(shuffled), draft)


def test_a_row_that_is_missing_or_double_is_named(tmp_path: Path) -> None:
    for number, change in enumerate((lambda t: t.slice(0, 39), lambda t: t.take([*range(40), 39]))):
        root = Draft().write_v3(tmp_path / str(number))
        path = root / "data/chunk-000/file-000.parquet"
        pq.write_table(change(pq.read_table(path)), path)
        with pytest.raises(DatasetError, match=r"file-000\.parquet.* episode 3 "):
            opened(root)


@pytest.mark.parametrize(
    ("totals", "episodes"),
    [
        ({"total_frames": 39}, 4),
        ({"total_episodes": 3}, 4),
        ({"total_episodes": None, "total_frames": "many"}, 4),
        ({"total_episodes": 3, "total_frames": sum(LENGTHS[:3])}, 3),  # an append that was interrupted
    ],
)
def test_totals_that_do_not_fit_are_noted(tmp_path: Path, totals: dict[str, object], episodes: int) -> None:
    draft = Draft()
    draft.info |= totals
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert dataset.num_episodes == episodes and len(dataset.notes) == 1
    assert shown(dataset) == frames(LENGTHS, range(episodes))


def test_episodes_that_are_counted_and_not_there_are_an_error(tmp_path: Path) -> None:
    draft = Draft()
    draft.info |= {"total_episodes": 5}
    with pytest.raises(DatasetError, match=r"lists 4 episodes, and info\.json counts 5"):
        opened(draft.write_v3(tmp_path / "d"))


# --- info.json ---


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_info_may_have_any_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    draft = Draft()
    draft.info |= {"fps": "10", "video_path": None}
    root = draft.write_v3(tmp_path / "d")
    (root / "meta/info.json").write_text((root / "meta/info.json").read_text(), encoding=encoding)
    dataset = opened(root)
    assert dataset.fps == 10
    assert_whole(dataset, draft)


def test_odd_declarations_of_what_nobody_reads_stop_nothing(tmp_path: Path) -> None:
    draft = Draft()
    odd = {"a": None, "b": {"dtype": "string", "shape": None}, "c": {"dtype": "float32", "shape": [0]}}
    odd |= {"d": {"dtype": "float32", "shape": [-1, 3]}, "e": {"dtype": "video"}, "f": {"dtype": 3}, "g": []}
    draft.features.update(odd)
    draft.features["action"]["shape"] = [4.0]
    dataset = EpisodeDataset(draft.write_v3(tmp_path / "d"), chunk_size=4, cameras=["front"])
    assert_whole(dataset, draft)
    with pytest.raises(DatasetError, match=r"'c' cannot be read: its shape in info.json is \[0\]"):
        EpisodeDataset(tmp_path / "d", chunk_size=4, cameras=["front"], action=["c"])


@pytest.mark.parametrize(
    "dtype", ["float16", "float64", "int8", "int16", "int64", "uint16", "uint32", "bool"]
)
def test_actions_of_any_numeric_type_are_read(tmp_path: Path, dtype: str) -> None:
    draft = Draft()
    values = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, (sum(LENGTHS), 4))
    draft.add("action", values.astype(dtype))
    dataset = opened(draft.write_v3(tmp_path / "d"))
    np.testing.assert_array_equal(dataset.actions([0])[0], values[:4].astype(np.float32))
    np.testing.assert_allclose(dataset.statistics["action"]["mean"], values.mean(axis=0))


def test_shapes_of_two_dimensions_are_flattened_where_that_is_right(tmp_path: Path) -> None:
    draft = Draft()
    state = np.random.default_rng(1).normal(size=(sum(LENGTHS), 2, 3)).astype(np.float32)
    draft.add("observation.state", state)
    draft.add("action", draft.columns["action"][:, None])
    dataset = opened(draft.write_v3(tmp_path / "flat"))
    np.testing.assert_array_equal(dataset.column("observation.state"), state.reshape(-1, 6))
    assert dataset.action_dim == 4
    draft.add("action", np.repeat(draft.columns["action"], 5, axis=1))
    with pytest.raises(DatasetError, match=r"'action' has the shape \[5, 4\], and rdvla reads one action"):
        opened(draft.write_v3(tmp_path / "chunks"))


# --- times ---


@pytest.mark.parametrize(
    ("times", "noted"),
    [
        (lambda step, _: np.round(step / 10, 3), False),
        (lambda step, _: (step + 0.4 * (-1) ** step) / 10, False),
        (lambda step, _: step * 1.1 / 10, True),
        (lambda step, _: 1000 + step / 10, True),
        (lambda _, index: index / 10, True),
        (lambda step, _: np.where(step == 3, np.nan, step / 10), True),
    ],
    ids=["rounded", "jitter", "drift", "absolute", "not restarting", "NaN"],
)
def test_clocks_do_not_decide_which_picture_is_whose(
    tmp_path: Path, times: Callable[[np.ndarray, np.ndarray], np.ndarray], noted: bool
) -> None:
    draft = Draft()
    step, index = draft.columns["frame_index"], draft.columns["index"]
    draft.columns["timestamp"] = times(step, index).astype(np.float32)
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert_whole(dataset, draft)
    assert any("timestamps" in note for note in dataset.notes) is noted


@pytest.mark.parametrize("frames_off", [0.2, 1, -1, 0.5])
def test_a_wrong_start_in_the_video_is_corrected_by_counting(tmp_path: Path, frames_off: float) -> None:
    draft = Draft()
    draft.lines[1][FROM] += frames_off / 10
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert_whole(dataset, draft)
    assert any("pictures were counted" in note for note in dataset.notes) is (abs(frames_off) == 1)


@pytest.mark.parametrize("options", [{"bf": "3"}, {"bf": "0"}])
@pytest.mark.parametrize("shift", [0, 40])
def test_pictures_with_irregular_times_are_counted(
    tmp_path: Path, options: dict[str, str], shift: int
) -> None:
    draft = Draft()
    root = draft.write_v3(tmp_path / "d")
    rng = np.random.default_rng(0)
    times = shift + np.cumsum(rng.integers(20, 180, sum(LENGTHS)))
    write_video(root / VIDEO, draft.videos[0], 10, times=times.tolist(), options=options)
    assert_whole(opened(root), draft)


def test_stray_pictures_between_episodes_are_passed_over(tmp_path: Path) -> None:
    draft = Draft()
    draft.videos[0] = [
        image
        for episode, length in enumerate(LENGTHS)
        for image in [*(picture(episode, t) for t in range(length)), *[stray_picture()] * 3]
    ]
    for number, line in enumerate(draft.lines):
        line[FROM] = (sum(LENGTHS[:number]) + 3 * number) / 10
        line[TO] = line[FROM] + (LENGTHS[number] + 3) / 10
    assert_whole(opened(draft.write_v3(tmp_path / "d")), draft)


def test_no_episode_may_show_pictures_of_the_next(tmp_path: Path) -> None:
    """Episode 1 has one picture too few: its last frame would show the first picture of episode 2."""
    draft = Draft()
    del draft.videos[0][LENGTHS[0] + 4]
    draft.lines[1][TO] -= 0.1
    for line in draft.lines[2:]:
        line[FROM] -= 0.1
        line[TO] -= 0.1
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert shown(dataset) == frames(LENGTHS, [0, 2, 3])
    assert "1 of 4 episodes are left out" in dataset.notes[0] and ": 1. " in dataset.notes[0]


# --- videos ---


def test_a_video_that_ends_early_costs_the_episodes_behind_its_end(tmp_path: Path) -> None:
    draft = Draft()
    draft.videos[0] = draft.videos[0][:-2]
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert shown(dataset) == frames(LENGTHS, [0, 1, 2])
    assert "1 of 4 episodes are left out" in dataset.notes[0] and "38 pictures" in dataset.notes[0]


@pytest.mark.parametrize("fault", ["missing", "truncated", "empty", "text"])
def test_episodes_without_a_readable_video_are_left_out_and_named(tmp_path: Path, fault: str) -> None:
    draft = Draft(one_video_each=True)
    root = draft.write_v3(tmp_path / "d")
    before = opened(root).fingerprint()
    path = root / f"videos/{KEY}/chunk-000/file-002.mp4"
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[: len(content) // 2], "text": b"version https://git-lfs"}.get(fault, b"")
    )
    if fault == "missing":
        path.unlink()
    dataset = opened(root)
    assert shown(dataset) == frames(LENGTHS, [0, 1, 3]) and dataset.fingerprint() != before
    expected = np.concatenate([draft.columns["action"][:21], draft.columns["action"][28:]])
    np.testing.assert_array_equal(dataset.column("action"), expected)
    assert "1 of 4 episodes are left out" in dataset.notes[0] and "file-002.mp4" in dataset.notes[0]
    for number in (0, 1, 3):
        (root / f"videos/{KEY}/chunk-000/file-{number:03d}.mp4").unlink()
    with pytest.raises(DatasetError, match=r"no image of camera 'front'.*file-000\.mp4 is missing"):
        EpisodeDataset(root, chunk_size=4, cameras=["front"])
    with pytest.raises(DatasetError, match="none of its cameras has images"):
        opened(root)


def test_a_truncated_video_with_its_index_in_front_keeps_its_first_episodes(tmp_path: Path) -> None:
    draft = Draft()
    root = draft.write_v3(tmp_path / "d")
    rng = np.random.default_rng(0)
    noisy = [np.clip(p + rng.integers(-2, 3, p.shape), 0, 255).astype(np.uint8) for p in draft.videos[0]]
    options = {"movflags": "faststart"}
    whole = tmp_path / "whole.mp4"
    write_video(whole, noisy, 10)
    with av.open(str(whole)) as source, av.open(str(root / VIDEO), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (root / VIDEO).read_bytes()
    (root / VIDEO).write_bytes(content[: len(content) * 3 // 4])
    dataset = opened(root)
    assert 0 < dataset.num_episodes < 4 and shown(dataset) == frames(LENGTHS, range(dataset.num_episodes))
    assert "left out" in dataset.notes[0]


def test_a_camera_without_any_file_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    draft = Draft()
    draft.features["observation.images.ghost"] = dict(draft.features[KEY])
    root = draft.write_v3(tmp_path / "d")
    dataset = opened(root)
    assert dataset.cameras == ["front"] and dataset.num_episodes == 4
    assert "Camera 'ghost' is left out" in dataset.notes[0]
    with pytest.raises(DatasetError, match="no image of camera 'ghost' can be read"):
        EpisodeDataset(root, chunk_size=4, cameras=["ghost"])


def test_a_size_that_info_json_has_wrong_is_that_of_the_pictures(tmp_path: Path) -> None:
    draft = Draft()
    draft.features[KEY] |= {"shape": [3, 480, 640], "names": None}
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert dataset.recorded_image_size("front") == (SIZE, SIZE)
    assert "32x32, though info.json says 640x480" in dataset.notes[0]


# --- links and fingerprints ---


def test_linked_folders_and_files_are_followed_and_change_the_fingerprint(tmp_path: Path) -> None:
    draft = Draft()
    root = draft.write_v3(tmp_path / "d")
    plain = opened(root).fingerprint()
    (root / "videos").rename(tmp_path / "disk")
    (root / "videos").symlink_to(tmp_path / "disk")
    (root / "data/chunk-000").rename(tmp_path / "rows")
    (root / "data/chunk-000").symlink_to(tmp_path / "rows")
    (root / "data/circle").symlink_to(root / "data")
    dataset = opened(root)
    assert_whole(dataset, draft)
    assert dataset.fingerprint() == plain
    draft.videos[0][5] = stray_picture()
    write_video(tmp_path / "disk" / KEY / "chunk-000/file-000.mp4", draft.videos[0], 10)
    assert opened(root).fingerprint() != plain


def test_an_edit_of_any_byte_changes_the_fingerprint(tmp_path: Path) -> None:
    root = Draft().write_v3(tmp_path / "d")
    dataset = opened(root)
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    (root / "videos/large.mp4").write_bytes(bytes(9 << 20))
    seen = {dataset.fingerprint()}
    for number, path in enumerate([*files, root / "videos/large.mp4"]):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        seen.add(dataset.fingerprint())
        assert len(seen) == number + 2, path
    (root / "meta/stats.json").write_text(json.dumps({}))  # nothing reads it
    assert dataset.fingerprint() in seen


def test_a_source_that_is_plain_text_is_kept_as_such(tmp_path: Path) -> None:
    draft = Draft()
    for line, text in zip(draft.lines, ("kitchen 3", '{"seed": 4}', "[1]", None), strict=True):
        line["source"] = text
    dataset = opened(draft.write_v3(tmp_path / "d"))
    assert dataset.sources == [{"source": "kitchen 3"}, {"seed": 4}, {"source": "[1]"}, {}]
