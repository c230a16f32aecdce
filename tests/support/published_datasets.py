"""Tiny datasets laid out as LeRobot 0.4 publishes LIBERO, written without rdvla's writer.

`video`: as lerobot/libero, MP4 files of 4:2:0 video with a keyframe every second frame. `image`: as
HuggingFaceVLA/libero, PNG files inside the parquet files, and `video_path` null. Neither has environment
state, `camera_is_new` or, here, quantiles (a dataset that was converted from v2.1 has none).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS = 10
SIZE = 32
LENGTHS = (7, 5, 9)
TASKS = ("put the bowl on the plate", "open the drawer")
KEYS = ("observation.images.image", "observation.images.image2")
MOTORS = {"motors": ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper"]}


def pictures(camera: int) -> np.ndarray:
    """(frames, SIZE, SIZE, 3): smooth, so that 4:2:0 video keeps them; one half tells up from down."""
    frame, y, x = np.mgrid[: sum(LENGTHS), :SIZE, :SIZE]
    red = 100 + 60 * np.sin((x + 2 * frame) / 12)
    green = 40 + 5 * y + 10 * camera
    return np.stack([red, green, 90 + 0 * x], axis=-1).clip(0, 255).astype(np.uint8)


def numbers(size: int) -> np.ndarray:
    """Random features; like the published ones, the seventh of an action is a gripper of -1 or 1."""
    drawn = np.random.default_rng(size).normal(size=(sum(LENGTHS), size)).astype(np.float32)
    if size == 7:
        drawn[:, 6] = np.sign(drawn[:, 6])
    return drawn


def write_published(root: Path, *, kind: str, version: str = "v3.0", keys: tuple[str, str] = KEYS) -> Path:
    """Write a dataset of `kind` "video" or "image"."""
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    camera = {"dtype": kind, "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channel"], "fps": FPS}
    plain = {
        name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index")
    }
    plain |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("index", "task_index")}
    info = {
        "codebase_version": version, "robot_type": "panda", "fps": FPS, "chunks_size": 1000,
        "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "total_tasks": len(TASKS),
        "splits": {"train": f"0:{len(LENGTHS)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if kind == "video" else None,
        "features": dict.fromkeys(keys, camera) | plain | {
            "observation.state": {"dtype": "float32", "shape": [8], "names": MOTORS},
            "action": {"dtype": "float32", "shape": [7], "names": {"motors": MOTORS["motors"][:7]}},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    stats = {
        "action": {"mean": [0.0] * 7, "std": [1.0] * 7, "min": [-1.0] * 7, "max": [1.0] * 7, "count": [9]}
    }
    (root / "meta/stats.json").write_text(json.dumps(stats))
    _write_tables(root, kind, keys)
    if kind == "video":
        for number, key in enumerate(keys):
            _write_video(root / f"videos/{key}/chunk-000/file-000.mp4", pictures(number))
    return root


def _write_tables(root: Path, kind: str, keys: tuple[str, str]) -> None:
    pandas = {"index_columns": ["__index_level_0__"], "columns": []}
    tasks = pa.table({"task_index": range(len(TASKS)), "__index_level_0__": list(TASKS)})
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(pandas)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    starts = np.cumsum([0, *LENGTHS])
    episodes: dict[str, Any] = {
        "episode_index": range(len(LENGTHS)), "length": LENGTHS,
        "tasks": [[TASKS[e % 2]] for e in range(len(LENGTHS))],
        "dataset_from_index": starts[:-1], "dataset_to_index": starts[1:],
        "data/chunk_index": [0] * len(LENGTHS), "data/file_index": [0] * len(LENGTHS),
    }  # fmt: skip
    if kind == "video":
        for key in keys:
            episodes |= {f"videos/{key}/{part}": [0] * len(LENGTHS) for part in ("chunk_index", "file_index")}
            episodes[f"videos/{key}/from_timestamp"] = starts[:-1] / FPS
            episodes[f"videos/{key}/to_timestamp"] = starts[1:] / FPS
    pq.write_table(pa.table(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    frame = np.concatenate([np.arange(length) for length in LENGTHS])
    episode = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    columns: dict[str, Any] = {
        "observation.state": pa.array(numbers(8).tolist(), pa.list_(pa.float32())),
        "action": pa.array(numbers(7).tolist(), pa.list_(pa.float32(), 7)),
        "timestamp": (frame / FPS).astype(np.float32), "frame_index": frame, "episode_index": episode,
        "index": np.arange(sum(LENGTHS)), "task_index": episode % 2,
    }  # fmt: skip
    if kind == "image":
        for number, key in enumerate(keys):
            columns[key] = [
                {"bytes": _png(image), "path": f"frame-{place:06d}.png"}
                for place, image in enumerate(pictures(number))
            ]
    pq.write_table(pa.table(columns), root / "data/chunk-000/file-000.parquet", row_group_size=6)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _write_video(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"g": "2", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for image in images:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
