"""File names, standard features and `meta/info.json` of LeRobot's format v3.0.

Source of every name: LeRobot, `src/lerobot/datasets/utils.py` (paths, default features, info fields) and
`lerobot_dataset.py` (columns of `meta/episodes`), `CODEBASE_VERSION = "v3.0"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdvla.data.formats.lerobot.declared import is_plain_template
from rdvla.errors import DatasetError

CODEBASE_VERSION = "v3.0"
CHUNK_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = f"meta/episodes/{CHUNK_FILE}.parquet"
DATA_PATH = f"data/{CHUNK_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{CHUNK_FILE}.mp4"

MAX_FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
# LeRobot compares timestamps as float32 with a tolerance of 1e-4 s. Neighbouring float32 numbers are 6e-5
# apart below 1024 and 1.2e-4 above, so a longer file would fail the check by rounding alone.
VIDEO_FILE_SECONDS = 1000.0


@dataclass(frozen=True)
class FilePosition:
    """Chunk and file number of one of a dataset's files."""

    chunk_index: int = 0
    file_index: int = 0

    def next(self, files_per_chunk: int = MAX_FILES_PER_CHUNK) -> FilePosition:
        """Return the position of the next file; a full chunk is followed by a new chunk's first file."""
        if self.file_index + 1 >= files_per_chunk:
            return FilePosition(self.chunk_index + 1, 0)
        return FilePosition(self.chunk_index, self.file_index + 1)

    def path(self, template: str, **names: str) -> str:
        """Fill a path template of this module."""
        return template.format(chunk_index=self.chunk_index, file_index=self.file_index, **names)


def check_info(info: dict[str, Any], path: Path) -> None:
    """Check every field of info.json that adding episodes needs.

    Raises:
        DatasetError: naming the file and the field.
    """
    checks: dict[str, Callable[[Any], bool]] = {
        "codebase_version": lambda v: v == CODEBASE_VERSION,
        "fps": lambda v: isinstance(v, int | float) and 0 < v < 1e6,
        "total_episodes": lambda v: isinstance(v, int) and v > 0,
        "total_frames": lambda v: isinstance(v, int) and v > 0,
        "data_path": _fills,
        "video_path": lambda v: v is None or _fills(v),
        "features": lambda v: isinstance(v, dict) and all(_is_feature(n, f) for n, f in v.items()),
    }
    for name, is_valid in checks.items():
        if not is_valid(info.get(name)):
            shown = repr(info.get(name))[:80]
            raise DatasetError(f"{path}: {name!r} is missing or not valid: {shown}")
    if info.get("video_path") is None and any(f["dtype"] == "video" for f in info["features"].values()):
        raise DatasetError(f"{path}: 'video_path' is missing, but there are features of dtype 'video'")


def _fills(template: Any) -> bool:
    try:
        return is_plain_template(template) and bool(FilePosition().path(template, video_key="x"))
    except KeyError:  # names of other versions
        return False


def _is_feature(name: str, feature: Any) -> bool:
    shape = feature.get("shape") if isinstance(feature, dict) else None
    sizes_fit = isinstance(shape, list) and all(isinstance(size, int) and size > 0 for size in shape)
    dtype = feature.get("dtype") if isinstance(feature, dict) else None
    if not sizes_fit or ".." in name or not isinstance(dtype, str):
        return False
    return len(shape or ()) >= 2 or dtype not in ("video", "image")
