"""Check `meta/info.json` before anything relies on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rdvla.data.layout import CODEBASE_VERSION, FilePosition
from rdvla.errors import DatasetError

# LeRobot 0.4 keeps it in lerobot.datasets.v30, later versions in lerobot.scripts.
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"
CONVERTER_0_4 = "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"


def check_version(info: dict[str, Any], path: Path | str) -> None:
    """Check the format version of a dataset.

    Raises:
        DatasetError: naming the file (or where else info.json came from) and the converter.
    """
    version = info.get("codebase_version")
    if version != CODEBASE_VERSION:
        raise DatasetError(
            f"{path}: the dataset has format version {version!r}, rdvla reads {CODEBASE_VERSION}. LeRobot "
            f"converts v2.1: {CONVERTER} --repo-id=<user/name>, with --root=<folder> --push-to-hub=false for "
            f"a local folder (in LeRobot 0.4: {CONVERTER_0_4})"
        )


def check_info(info: dict[str, Any], path: Path) -> None:
    """Check the version and every field of info.json that reading needs.

    Raises:
        DatasetError: naming the file and the field, or the converter that makes the right version.
    """
    check_version(info, path)
    checks: dict[str, Callable[[Any], bool]] = {
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
        return (
            bool(FilePosition().path(template, video_key="x"))
            and ".." not in template
            and template[:1] != "/"
        )
    except (AttributeError, KeyError, ValueError, IndexError):
        return False


def _is_feature(name: str, feature: Any) -> bool:
    shape = feature.get("shape") if isinstance(feature, dict) else None
    sizes_fit = isinstance(shape, list) and all(isinstance(size, int) and size > 0 for size in shape)
    dtype = feature.get("dtype") if isinstance(feature, dict) else None
    if not sizes_fit or ".." in name or not isinstance(dtype, str):
        return False
    return len(shape or ()) >= 2 or dtype not in ("video", "image")
