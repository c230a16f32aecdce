"""Every frame shows its own picture, also if files hide some, have another rate or size, or are damaged."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdvla.data import EpisodeDataset
from rdvla.data.transfer.transfer import transfer
from tests.support.datasets_strangers import KEY, LENGTHS, Draft, frames, shown, stray_picture, write_video

HIDDEN = 3  # pictures


def hide_first_pictures(path: Path, count: int) -> None:
    """Let an edit list hide the first pictures of a file: they are decoded and not shown."""
    whole = path.with_name("whole.mp4")
    path.rename(whole)
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        ticks = int(1 / (stream.average_rate * stream.time_base))
        for packet in source.demux(stream):
            if packet.size:
                packet.pts -= count * ticks
                packet.dts -= count * ticks
                packet.stream = copy
                output.mux(packet)
    whole.unlink()
    with av.open(str(path)) as hidden:
        assert sum(packet.is_discard for packet in hidden.demux(video=0)) == count


def with_hidden_pictures(root: Path) -> Path:
    """A v2.1 dataset in whose videos strange pictures precede those of the episode, and are hidden."""
    draft = Draft(one_video_each=True)
    for pictures in draft.videos.values():
        pictures[:0] = [stray_picture()] * HIDDEN
    draft.write_v2(root)
    for path in root.glob("videos/*/*/*.mp4"):
        hide_first_pictures(path, HIDDEN)
    return root


def test_pictures_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    dataset = EpisodeDataset(with_hidden_pictures(tmp_path / "d"), chunk_size=8)
    assert shown(dataset) == frames() and dataset.notes == []


def test_conversion_takes_the_pictures_that_are_shown(tmp_path: Path) -> None:
    done = transfer([(with_hidden_pictures(tmp_path / "in"), None)], tmp_path / "out")
    assert (done.copied, done.encoded) == (0, len(LENGTHS))
    assert shown(EpisodeDataset(tmp_path / "out", chunk_size=8)) == frames()


def test_a_v2_video_at_another_rate_is_left_out(tmp_path: Path) -> None:
    draft = Draft(one_video_each=True)
    root = draft.write_v2(tmp_path / "d")
    doubled = [image for image in draft.videos[1] for _ in range(2)]
    write_video(root / f"videos/chunk-000/{KEY}/episode_000001.mp4", doubled, 2 * draft.fps)
    dataset = EpisodeDataset(root, chunk_size=8)
    assert shown(dataset) == frames(LENGTHS, [0, 2, 3])
    assert "has 20 pictures per second, the dataset 10" in " ".join(dataset.notes)


def test_a_video_of_another_size_than_most_is_left_out(tmp_path: Path) -> None:
    root = Draft(one_video_each=True).write_v2(tmp_path / "d")
    path = root / f"videos/chunk-000/{KEY}/episode_000000.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=Fraction(10))
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(LENGTHS[0]):
            image = np.zeros((48, 64, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    dataset = EpisodeDataset(root, chunk_size=8)
    assert shown(dataset) == frames(LENGTHS, [1, 2, 3]) and dataset.recorded_image_size("front") == (32, 32)
    assert "64x48, most episodes have 32x32" in " ".join(dataset.notes)


@pytest.mark.parametrize("cameras", [None, ["front"]])
def test_one_bad_first_picture_costs_only_its_episode(tmp_path: Path, cameras: list[str] | None) -> None:
    root = Draft(one_video_each=True).write_v2(tmp_path / "d", images="image")
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    cells = table.column(KEY).to_pylist()
    cells[0]["bytes"] = b"no picture"
    pq.write_table(table.set_column(table.column_names.index(KEY), KEY, pa.array(cells)), path)
    dataset = EpisodeDataset(root, chunk_size=8, cameras=cameras)
    assert shown(dataset) == frames(LENGTHS, [1, 2, 3])
    assert "1 of 4 episodes are left out" in " ".join(dataset.notes)


def test_pictures_anywhere_in_the_folder_count_for_the_fingerprint(tmp_path: Path) -> None:
    root = Draft(one_video_each=True).write_v2(tmp_path / "d", images="image")
    for path in sorted((root / "data/chunk-000").iterdir()):
        table = pq.read_table(path)
        cells = table.column(KEY).to_pylist()
        for row, cell in enumerate(cells):
            name = f"pictures/{path.stem}_{row}.PNG"
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(cell["bytes"])
            cells[row] = {"bytes": None, "path": name}
        pq.write_table(table.set_column(table.column_names.index(KEY), KEY, pa.array(cells)), path)
    dataset = EpisodeDataset(root, chunk_size=8)
    assert shown(dataset) == frames()
    before = dataset.fingerprint()
    changed = root / "pictures/episode_000000_0.PNG"
    changed.write_bytes((root / "pictures/episode_000001_0.PNG").read_bytes())
    assert EpisodeDataset(root, chunk_size=8).fingerprint() != before
