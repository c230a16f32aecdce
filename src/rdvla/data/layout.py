"""File names, features and metadata of the LeRobot dataset format, version v3.0.

Source of every name: LeRobot, `src/lerobot/datasets/utils.py` (paths, default features, info fields) and
`lerobot_dataset.py` (columns of `meta/episodes`), `CODEBASE_VERSION = "v3.0"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CODEBASE_VERSION = "v3.0"
CHUNK_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
CHECKSUMS_PATH = "meta/checksums.json"  # ours: CRC-32 of every file; other readers ignore it
EPISODES_PATH = f"meta/episodes/{CHUNK_FILE}.parquet"
DATA_PATH = f"data/{CHUNK_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{CHUNK_FILE}.mp4"

STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"
KEYPOINTS = "observation.environment_keypoints"
ACTION = "action"
# Not "image" in the name: LeRobot takes every feature with that word for pictures when it joins statistics.
IMAGE_IS_NEW = "observation.camera_is_new"
SUCCESS = "next.success"
IMAGE_PREFIX = "observation.images."

MAX_FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
# LeRobot compares timestamps as float32 with a tolerance of 1e-4 s. Neighbouring float32 numbers are 6e-5
# apart below 1024 and 1.2e-4 above, so a longer file would fail the check by rounding alone.
VIDEO_FILE_SECONDS = 1000.0

Feature = dict[str, Any]

DEFAULT_FEATURES: dict[str, Feature] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


def image_key(camera: str) -> str:
    """Feature key of a camera: "front" and "observation.images.front" give the same key."""
    return camera if camera.startswith("observation.") else IMAGE_PREFIX + camera


def camera_name(key: str) -> str:
    """Short name of a camera feature: "observation.images.front" -> "front"."""
    return key.removeprefix(IMAGE_PREFIX)


def image_size(feature: Feature) -> tuple[int, int]:
    """(height, width) of a camera feature, whose shape is (H, W, 3), or (3, H, W) where its names say so."""
    names = feature.get("names")
    named = zip(names, feature["shape"], strict=False) if isinstance(names, list) else ()
    sizes = {name: size for name, size in named if isinstance(name, str)}
    return sizes.get("height", feature["shape"][0]), sizes.get("width", feature["shape"][1])


@dataclass(frozen=True)
class FilePosition:
    """Chunk and file number of one of a dataset's files."""

    chunk_index: int = 0
    file_index: int = 0

    def next(self, files_per_chunk: int = MAX_FILES_PER_CHUNK) -> FilePosition:
        """The file after this one; a full chunk is followed by the first file of the next chunk."""
        if self.file_index + 1 >= files_per_chunk:
            return FilePosition(self.chunk_index + 1, 0)
        return FilePosition(self.chunk_index, self.file_index + 1)

    def path(self, template: str, **names: str) -> str:
        """Fill a path template of this module."""
        return template.format(chunk_index=self.chunk_index, file_index=self.file_index, **names)
