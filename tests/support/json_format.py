"""A second dataset format, in one file: numbers in JSON, images as raw bytes.

`dataset.json` holds {"fps", "features", "cameras": {name: [height, width]}, "episodes"}. An episode is
{"task", "features": {name: (T, size)}}. `<camera>.rgb` holds the images of all frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data import EpisodeDataset
from rdvla.data.decoding import ImageConverter
from rdvla.data.features import Camera, Columns, Feature
from rdvla.data.formats.base import HubFiles, check_values, fingerprint_files
from rdvla.errors import DatasetError

FILE = "dataset.json"


class JsonFormat:
    name = "JSON"
    hub: HubFiles | None = None

    def rejects(self, path: Path) -> str | None:
        return None if (path / FILE).is_file() else f"{path / FILE} is missing"

    def open(self, path: Path) -> JsonReader:
        return JsonReader(path, json.loads((path / FILE).read_text()))


class JsonReader:
    def __init__(self, root: Path, content: dict[str, Any]) -> None:
        self.root = root
        self.fps = float(content["fps"])
        self.features: Mapping[str, Feature] = content["features"]
        self.cameras = {name: Camera(name, *size) for name, size in content["cameras"].items()}
        self.tasks = list(dict.fromkeys(episode["task"] for episode in content["episodes"]))
        self.sources: Sequence[Mapping[str, Any]] = [{} for _ in content["episodes"]]
        self.unreadable: Mapping[str, str] = {}
        self.robot_type: str | None = None
        self.notes: Sequence[str] = ()
        self.lengths = np.array([len(e["features"]["action"]) for e in content["episodes"]])
        self.numbers = np.arange(len(self.lengths))
        self._episodes: list[dict[str, Any]] = content["episodes"]

    def task_of_frames(self) -> NDArray[np.int64]:
        numbers = np.array([self.tasks.index(episode["task"]) for episode in self._episodes])
        return np.repeat(numbers, self.lengths)

    def columns(self, names: Sequence[str]) -> Columns:
        columns: Columns = {}
        for name in names:
            values = np.concatenate([np.array(e["features"][name]) for e in self._episodes])
            columns[name] = values.astype(self.features[name]["dtype"])
            check_values(columns[name], self.features[name], name=name, path=self.root / FILE)
        return columns

    def with_cameras(self, names: Sequence[str] | None) -> JsonReader:
        return self

    def open_camera(self, name: str, convert: ImageConverter) -> JsonCamera:
        camera = self.cameras[name]
        return JsonCamera(self.root / f"{name}.rgb", (camera.height, camera.width, 3), convert)

    def fingerprint(self) -> str:
        return fingerprint_files(self.root, [FILE, *(f"{name}.rgb" for name in self.cameras)])


class JsonCamera:
    def __init__(self, path: Path, shape: tuple[int, int, int], convert: ImageConverter) -> None:
        self.path = path
        self.shape = shape
        self.convert = convert

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        if not self.path.is_file():
            raise DatasetError(f"{self.path} is missing")
        images = np.memmap(self.path, dtype=np.uint8, mode="r").reshape(-1, *self.shape)
        return np.stack([self.convert(np.array(images[frame])) for frame in frames])


def write_json_dataset(root: Path, source: EpisodeDataset) -> Path:
    """Write the content of another dataset in this format, with the images as decoded."""
    root.mkdir()
    features = source.features
    episodes = [
        {
            "task": source.tasks[source.episode_task(episode)],
            "features": {n: source.column(n)[source.episode_frames(episode)].tolist() for n in features},
        }
        for episode in range(source.num_episodes)
    ]
    for camera, images in source.images(range(source.num_frames)).items():
        images.numpy().tofile(root / f"{camera}.rgb")
    content = {
        "fps": source.fps,
        "features": {name: dict(feature) for name, feature in features.items()},
        "cameras": {name: source.recorded_image_size(name) for name in source.cameras},
        "episodes": episodes,
    }
    (root / FILE).write_text(json.dumps(content))
    return root
