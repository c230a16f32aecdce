"""Small datasets in LeRobot's format v2.1, written without rdvla's writer, for tests that spoil them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 10
JOINTS = ("waist", "elbow", "gripper")
CAMERA = "observation.images.front"
LENGTH = 30
SIZE = 32

Columns = dict[str, np.ndarray]


def sound_columns(index: int, length: int = LENGTH) -> Columns:
    """An episode in which every joint moves in every step."""
    rng = np.random.default_rng(index)
    times = np.arange(length) / FPS
    state = np.stack([np.sin(times * (joint + 1) + index) for joint in range(3)], axis=1)
    state = state + rng.normal(scale=0.01, size=state.shape)
    return {
        "action": (state + 0.1).astype(np.float32),
        "observation.state": state.astype(np.float32),
        "timestamp": times.astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, index),
        "index": np.arange(length) + index * LENGTH,
        "task_index": np.zeros(length, int),
    }


def write_v21(
    root: Path,
    *,
    episodes: int = 4,
    change: Callable[[int, Columns], None] = lambda _index, _columns: None,
    info: dict[str, Any] | None = None,
    videos: bool = True,
) -> Path:
    """Write a sound dataset; `change` may spoil the columns of each episode, `info` replaces entries."""
    (root / "meta").mkdir(parents=True)
    lengths = []
    for index in range(episodes):
        columns = sound_columns(index)
        change(index, columns)
        lengths.append(len(columns["action"]))
        path = root / f"data/chunk-000/episode_{index:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({n: list(v) if v.ndim > 1 else pa.array(v) for n, v in columns.items()}), path
        )
        if videos:
            write_video(root / f"videos/chunk-000/{CAMERA}/episode_{index:06d}.mp4", moving(lengths[-1]))
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [3], "names": list(JOINTS)}
        for name in ("action", "observation.state")
    }
    numbering = ("frame_index", "episode_index", "index", "task_index")
    features |= {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in numbering}
    if videos:
        names = ["height", "width", "channels"]
        features[CAMERA] = {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": names}
    content = {
        "codebase_version": "v2.1", "robot_type": "test", "fps": FPS, "chunks_size": 1000,
        "total_episodes": episodes, "total_frames": sum(lengths), "total_tasks": 1,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(content | (info or {})))
    lines = [{"episode_index": i, "tasks": ["wave"], "length": n} for i, n in enumerate(lengths)]
    write_lines(root / "meta/episodes.jsonl", lines)
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "wave"}])
    return root


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def moving(length: int) -> np.ndarray:
    frame, y, x = np.mgrid[:length, :SIZE, :SIZE]
    return np.stack([4 * x + 3 * frame, 5 * y, 90 + 0 * x], axis=-1).clip(0, 255).astype(np.uint8)


def write_video(path: Path, images: np.ndarray, *, fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "5"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
