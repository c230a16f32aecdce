"""Run all checks over a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rdvla.data.check.findings import Finding, Report, by_severity, listed
from rdvla.data.check.metadata import check_metadata
from rdvla.data.check.stored import AGAIN, StoredDataset, read_stored
from rdvla.data.check.timing import check_timing
from rdvla.data.check.values import check_values
from rdvla.data.check.videos import check_videos
from rdvla.data.decoding import ImageConverter
from rdvla.data.formats.registry import open_reader
from rdvla.errors import DatasetError

EPISODES_TO_LOOK_AT = 10  # of which an image is read, as training would
# What belongs below a dataset's folder: folder -> suffixes.
USUAL = {"data": (".parquet",), "videos": (".mp4",), "meta": (".json", ".jsonl", ".parquet")}


def check_dataset(root: Path, *, decode_all: bool = False) -> Report:
    """Find what is wrong with a dataset; it need not be readable.

    Args:
        root: its folder.
        decode_all: decode every frame of every video.

    Raises:
        DatasetError: there is no such folder.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder: give the dataset's folder (the one that holds meta/)")
    data = read_stored(root)
    findings = [*_opens(root, data), *data.findings, *check_metadata(data), *check_timing(data)]
    findings += [*check_values(data), *check_videos(data, decode_all=decode_all), *_files(data)]
    frames = sum(episode.length for episode in data.with_data)
    return Report(root, data.version, len(data.with_data), frames, by_severity(findings))


def _opens(root: Path, data: StoredDataset) -> Iterator[Finding]:
    """Open the dataset as training does; what is repaired or left out then is a note."""
    try:
        everything = open_reader(root)
        reader = everything.with_cameras(None)
        for name in everything.cameras.keys() - reader.cameras.keys():
            key = everything.cameras[name].key
            if data.features.get(key, {}).get("dtype") == "image":  # videos are checked one by one
                message = "no picture of this camera can be read, so training leaves it out"
                yield Finding("error", "damaged-images", message, AGAIN, feature=key)
        for note in reader.notes:
            yield Finding("note", "reading", note.replace(f"{root}/", ""))
        reader.task_of_frames()
        reader.columns([name for name in ("action", "observation.state") if name in reader.features])
        last = np.cumsum(reader.lengths) - 1
        looked_at = last[np.unique(np.linspace(0, len(last) - 1, EPISODES_TO_LOOK_AT).astype(int))]
        for camera in reader.cameras:
            reader.open_camera(camera, ImageConverter()).read(looked_at)
    except DatasetError as error:
        message = f"rdvla cannot read it: {str(error).replace(f'{root}/', '')}"
        yield Finding("error", "unreadable", message, "see what else is found here")


def _files(data: StoredDataset) -> Iterator[Finding]:
    """Find files that do not belong there, links, and files that are empty."""
    stray, links, empty = [], [], []
    for folder, suffixes in USUAL.items():
        for path in sorted((data.root / folder).rglob("*")):
            name = path.relative_to(data.root).as_posix()
            if path.is_symlink():
                links.append(name)
            if path.is_file() and path.suffix not in suffixes:
                stray.append(name)
            elif path.is_file() and not path.stat().st_size:
                empty.append(name)
    if stray:
        yield Finding("note", "files", f"files that belong to no dataset: {listed(stray)}", "delete them")
    if links:
        message = f"links may break when the dataset is moved: {listed(links, 3)}"
        yield Finding("note", "files", message, "copy the files (cp -L)")
    for name in empty:
        yield Finding("error", "damaged-file", "it is empty", AGAIN, name)
    if not (data.root / "videos").is_dir() and (data.root / "video").is_dir():
        message = "the videos are in video/, LeRobot looks in videos/"
        yield Finding("error", "paths", message, "rename the folder")
