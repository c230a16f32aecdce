"""Datasets as strangers write them: LeRobot v3.0, v2.1 and v2.0 without rdvla's writer, open to any fault.

A `Draft` is a sound dataset in memory; a test changes what it likes and writes it. Every picture's colour
tells its episode and step, so a test sees which picture a reader took for which frame.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rdvla.data import EpisodeDataset

KEY = "observation.images.front"
LENGTHS = (12, 9, 7, 12)
SIZE = 32
STRAY = (250, 250, 250)  # colour of a picture that belongs to no frame


def picture(episode: int, step: int) -> np.ndarray:
    """Return (SIZE, SIZE, 3) uint8 in one colour."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:] = (40 + 20 * episode, 40 + 4 * step, 100)
    return image


def stray_picture() -> np.ndarray:
    return np.full((SIZE, SIZE, 3), STRAY, np.uint8)


def shown(dataset: EpisodeDataset, camera: str = "front") -> list[tuple[int, int]]:
    """Return (episode, step) of the picture that each frame of the dataset shows."""
    colours = dataset.images(range(dataset.num_frames))[camera].float().mean(dim=(1, 2)).numpy()
    read = (colours[:, :2] - 40) / (20, 4)
    assert np.abs(read - read.round()).max() < 0.3, "the colours are not those of any frame"
    return [tuple(pair) for pair in read.round().astype(int).tolist()]


def frames(lengths: Sequence[int] = LENGTHS, numbers: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Return (episode, step) of every frame, as `shown` should give them."""
    own = range(len(lengths)) if numbers is None else numbers
    return [(episode, step) for episode in own for step in range(lengths[episode])]


@dataclass
class Draft:
    """A dataset to write; every field may be spoilt first."""

    lengths: Sequence[int] = LENGTHS
    fps: float = 10
    files: Sequence[int] = (0, 0, 0, 0)  # v3.0: data file of each episode
    one_video_each: bool = False
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)  # v3.0: of meta/episodes
    videos: dict[int, list[np.ndarray]] = field(default_factory=dict)  # pictures by file or episode number
    info: dict[str, Any] = field(default_factory=dict)
    tasks: Sequence[str] = ("push", "pull")

    def __post_init__(self) -> None:
        starts = np.cumsum([0, *self.lengths])
        episode = np.repeat(np.arange(len(self.lengths)), self.lengths)
        step = np.arange(starts[-1]) - starts[episode]
        rng = np.random.default_rng(0)
        self.columns = {
            "action": rng.normal(size=(starts[-1], 4)).astype(np.float32),
            "observation.state": rng.normal(size=(starts[-1], 3)).astype(np.float32),
            "timestamp": (step / self.fps).astype(np.float32), "frame_index": step,
            "episode_index": episode, "index": np.arange(starts[-1]), "task_index": episode % 2,
        }  # fmt: skip
        for number, length in enumerate(self.lengths):
            first = 0 if self.one_video_each else int(starts[number])
            self.lines.append({
                "episode_index": number, "length": int(length), "tasks": [self.tasks[number % 2]],
                "dataset_from_index": int(starts[number]), "dataset_to_index": int(starts[number + 1]),
                "data/chunk_index": 0, "data/file_index": self.files[number],
                f"videos/{KEY}/chunk_index": 0,
                f"videos/{KEY}/file_index": number if self.one_video_each else 0,
                f"videos/{KEY}/from_timestamp": first / self.fps,
                f"videos/{KEY}/to_timestamp": (first + length) / self.fps,
            })  # fmt: skip
            file = number if self.one_video_each else 0
            self.videos.setdefault(file, []).extend(picture(number, t) for t in range(length))
        features: dict[str, Any] = {
            "action": {"dtype": "float32", "shape": [4], "names": None},
            "observation.state": {"dtype": "float32", "shape": [3], "names": None},
            KEY: {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]},
        }
        self.info = {
            "robot_type": "toy", "fps": self.fps, "features": features, "total_tasks": len(self.tasks),
            "total_episodes": len(self.lengths), "total_frames": int(starts[-1]), "chunks_size": 1000,
            "splits": {"train": f"0:{len(self.lengths)}"},
        }  # fmt: skip

    @property
    def features(self) -> dict[str, Any]:
        features: dict[str, Any] = self.info["features"]
        return features

    def add(self, name: str, values: np.ndarray, **declared: Any) -> None:
        """Add or replace a numeric feature; `declared` replaces parts of its declaration."""
        self.columns[name] = values
        shape = list(values.shape[1:]) or [1]
        self.features[name] = {"dtype": values.dtype.name, "shape": shape, "names": None} | declared

    def write_v3(self, root: Path, *, order: Callable[[np.ndarray], np.ndarray] = lambda rows: rows) -> Path:
        """Write it in format v3.0; `order` permutes the row numbers of each data file."""
        info = {
            "codebase_version": "v3.0",
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        }
        (root / "meta/episodes/chunk-000").mkdir(parents=True)
        (root / "data/chunk-000").mkdir(parents=True)
        (root / "meta/info.json").write_text(json.dumps(info | self.info))
        pq.write_table(pa.Table.from_pylist(self.lines), root / "meta/episodes/chunk-000/file-000.parquet")
        tasks = pa.table({"task_index": range(len(self.tasks)), "task": list(self.tasks)})
        pq.write_table(tasks, root / "meta/tasks.parquet")
        file_of = np.repeat(self.files, self.lengths)
        for number in sorted(set(self.files)):
            rows = order(np.flatnonzero(file_of == number))
            pq.write_table(self._table(rows), root / f"data/chunk-000/file-{number:03d}.parquet")
        for number, pictures in self.videos.items():
            write_video(root / f"videos/{KEY}/chunk-000/file-{number:03d}.mp4", pictures, self.fps)
        return root

    def write_v2(
        self, root: Path, *, version: str = "v2.1", video_folder: str = "videos", images: str = "video"
    ) -> Path:
        """Write it in format v2.x; needs `one_video_each`. `images` "image": PNG inside the parquet files."""
        info = {
            "codebase_version": version,
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        }
        self.features[KEY]["dtype"] = images
        (root / "meta").mkdir(parents=True)
        (root / "meta/info.json").write_text(json.dumps(info | self.info))
        lines = [{name: line[name] for name in ("episode_index", "tasks", "length")} for line in self.lines]
        write_lines(root / "meta/episodes.jsonl", lines)
        write_lines(
            root / "meta/tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate(self.tasks)]
        )
        episode = np.repeat(np.arange(len(self.lengths)), self.lengths)
        for number in range(len(self.lengths)):
            table = self._table(np.flatnonzero(episode == number))
            if images == "image":
                pictures = [{"bytes": png(image), "path": None} for image in self.videos[number]]
                table = table.append_column(KEY, pa.array(pictures))
            path = root / f"data/chunk-000/episode_{number:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
            if images == "video":
                write_video(
                    root / f"{video_folder}/chunk-000/{KEY}/episode_{number:06d}.mp4",
                    self.videos[number],
                    self.fps,
                )
        return root

    def _table(self, rows: np.ndarray) -> pa.Table:
        values = {name: column[rows] for name, column in self.columns.items()}
        return pa.table({
            name: pa.array(column.tolist() if column.ndim > 1 else column) for name, column in values.items()
        })  # fmt: skip


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    fps: float,
    *,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Write an MP4 file; `times` are the pictures' times in thousandths of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=rate, options={"crf": "1", "g": "10"} | (options or {}))
        stream.height, stream.width, stream.pix_fmt = SIZE, SIZE, "yuv444p"
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = 1 / rate if times is None else Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
