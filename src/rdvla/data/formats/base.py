"""What a dataset format provides: how to recognise its folders, and how to read them.

Everything above works on these protocols alone: action chunks, held images, mixing of datasets, resizing,
caches and merged statistics are the same for every format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rdvla.data.decoding import ImageConverter
from rdvla.data.features import Camera, Columns, Feature
from rdvla.data.file_hashes import hash_files
from rdvla.errors import DatasetError


@dataclass(frozen=True)
class HubFiles:
    """Which files to download when a dataset is on the Hugging Face hub.

    Attributes:
        tag: the tag that datasets of this format carry, tried before the main branch; None: they have none.
        markers: files that `DatasetFormat.rejects` needs; nothing else is downloaded before its answer.
        content: patterns of the files that reading needs.
    """

    tag: str | None
    markers: tuple[str, ...]
    content: tuple[str, ...]


class DatasetFormat(Protocol):
    """A way to lay out a dataset on the disk, in a folder or in one file."""

    @property
    def name(self) -> str:
        """Name for messages, such as "LeRobot v3.0"."""
        ...

    @property
    def hub(self) -> HubFiles | None:
        """Which files to download from the hub; None if this format is only read from the disk."""
        ...

    def rejects(self, path: Path) -> str | None:
        """Return why the dataset is not of this format, with what the user can do; None: it is.

        Raise nothing: a damaged file is a reason too. Look only at `hub.markers`, if there are any.
        """
        ...

    def open(self, path: Path) -> DatasetReader:
        """Read what a dataset of this format says of itself.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        ...


class DatasetReader(Protocol):
    """One dataset, open for reading. It can be pickled.

    Frames (control steps) are numbered from 0 to N - 1; the E episodes follow each other without gaps,
    whatever the order in the files.
    """

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        ...

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        ...

    @property
    def features(self) -> Mapping[str, Feature]:
        """Declarations of the numeric features that `columns` can read, each with a shape of one dimension.

        Their names are those of `rdvla.data.features` if they mean the same. Frame numbers, task numbers and
        times are left out: they follow from the other members.
        """
        ...

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """Short name -> camera, in the recorded order; depth maps are left out."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) number of frames of each episode, each at least 1."""
        ...

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(E,) the dataset's own number of each episode; episodes that were left out leave gaps."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """The different instructions."""
        ...

    @property
    def sources(self) -> Sequence[Mapping[str, Any]]:
        """E entries: what each episode says of its origin, {} if nothing."""
        ...

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Features that are declared but cannot be read, with the reason; it is told to whom asks for one."""
        ...

    @property
    def robot_type(self) -> str | None:
        """What the dataset calls its robot; None if it does not say."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about what was repaired or left out; empty if nothing was."""
        ...

    def task_of_frames(self) -> NDArray[np.int64]:
        """Return the number of each frame's instruction in `tasks`, (N,)."""
        ...

    def columns(self, names: Sequence[str]) -> Columns:
        """Read numeric features, name -> (N, size); `check_values` is what every value must pass.

        Raises:
            DatasetError: naming the file that is missing or damaged, or the value that is not finite.
        """
        ...

    def with_cameras(self, names: Sequence[str] | None) -> DatasetReader:
        """Return this dataset without the episodes whose images of some cameras cannot be read.

        Args:
            names: of `cameras`; None: all that have images. What is left out goes into `notes`.

        Raises:
            DatasetError: no episode remains, or no image of a named camera can be read.
        """
        ...

    def open_camera(self, name: str, convert: ImageConverter) -> CameraReader:
        """Return a reader of one camera's images, after `with_cameras`; it opens no file yet.

        Args:
            name: of `cameras`.
            convert: makes the images of decoded pictures; it knows the wanted size, the format need not.
        """
        ...

    def fingerprint(self) -> str:
        """Return a text that changes with the content; compute it from the bytes of the files alone."""
        ...


@runtime_checkable
class ImagesInFiles(Protocol):
    """A reader whose episodes' images lie in files that are needed as a whole; not every format's is one."""

    def image_files(self, name: str) -> Sequence[str]:
        """Return the file of each episode's images of one camera, E names relative to the folder."""
        ...

    def file_size(self, name: str) -> int:
        """Return the bytes of one of these files."""
        ...

    @property
    def is_streamed(self) -> bool:
        """Whether files are fetched when they are needed."""
        ...

    def kept_as(self, name: str) -> str:
        """Return the name of one of these files in the folder that keeps fetched files of all datasets."""
        ...

    def prefetch(self, name: str, *, spare: frozenset[str]) -> bool:
        """Fetch one of these files if there is room, and return whether it is here.

        Args:
            name: of the file.
            spare: files of any dataset that stay for it, each as `kept_as` names it.
        """
        ...


class CameraReader(Protocol):
    """Reads the images of one camera. It can be pickled; every process and thread needs its own."""

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images, fastest in ascending order.

        Args:
            frames: (B,) frame numbers.

        Returns:
            (B, H, W, 3) RGB.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        ...


def check_values(
    values: NDArray[Any],
    feature: Feature,
    *,
    name: str,
    path: Path,
    rows: NDArray[np.int64] | None = None,
    episode: int | None = None,
) -> None:
    """Check some frames' values of one feature.

    Args:
        values: (n, size).
        feature: the declaration.
        name: of the feature.
        path: file that holds the values, for the message.
        rows: (n,) row of each frame in the file, for the message; None: they are counted from 0.
        episode: its number in the files, for the message.

    Raises:
        DatasetError: the size is not the declared one, or a value is not finite.
    """
    shape = tuple(feature["shape"])
    if values.shape[1] != (shape[0] if shape else 1):
        raise DatasetError(
            f"{path}: {name!r} has {values.shape[1]} values per frame, the dataset declares {list(shape)}: "
            "one of them is wrong"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        frame, dimension = np.argwhere(~np.isfinite(values))[0].tolist()
        row = frame if rows is None else int(rows[frame])
        where = f"row {row}" if episode is None else f"row {row} (episode {episode}, frame {frame})"
        raise DatasetError(
            f"{path}: {name!r} has a value that is not finite: {values[frame, dimension]} in {where}, "
            f"dimension {dimension}. Correct it, or remove the episode"
        )


def fingerprint_files(root: Path, names: Iterable[str], *, elsewhere: Mapping[str, str] | None = None) -> str:
    """Hash the names and the content of files below `root`; links are followed.

    Args:
        root: folder of the dataset.
        names: of its files.
        elsewhere: name -> what stands for the content of a file that is not below `root`.
    """
    ordered, known = sorted(names), dict(elsewhere or {})
    here = [name for name in ordered if name not in known]
    known |= dict(zip(here, hash_files([root / name for name in here]), strict=True))
    digest = hashlib.sha256()
    for name in ordered:
        digest.update(f"{name} {known[name]} ".encode())
    return digest.hexdigest()[:16]
