"""Where the frames of each episode lie: rows of the data files, and parts of videos.

The columns of the data files count, not what `meta/` says of them: LeRobot's own converters wrote file
numbers and frame ranges that do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rdvla.data.formats.lerobot.files import DatasetFiles, column_values
from rdvla.errors import DatasetError

OPTIONAL = ("frame_index", "index", "timestamp")  # one of the first two must tell the order


def whole_number(value: Any) -> int | None:
    """Return a whole number, which pandas may have written as a float; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1 << 62:
        return None
    return int(value) if value == int(value) else None


@dataclass(frozen=True)
class VideoPart:
    """What the dataset says of an episode's images of one camera.

    Attributes:
        file: the video, relative to the dataset; None: it says of none.
        start: time at which the episode begins in the file, in seconds; None: the file is the episode's own.
        stop: time at which it ends; None: at the end of the file, or unknown.
    """

    file: str | None
    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True)
class EpisodeRows:
    """The rows of an episode in one data file.

    Attributes:
        number: of the episode in the data.
        file: relative to the dataset.
        rows: (T,) row numbers in the file, in the order of the frames.
        first_index: the dataset's own number of its first frame, -1 if it has none.
        tasks: (T,) task_index of each frame.
        clock_fault: what is wrong with the timestamps, for a note; empty: frame t has the time t / fps.
    """

    number: int
    file: str
    rows: NDArray[np.int64]
    first_index: int
    tasks: NDArray[np.int64]
    clock_fault: str

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode of a dataset.

    Attributes:
        data: its rows.
        videos: camera feature -> where its images are.
        source: what it says of its origin.
    """

    data: EpisodeRows
    videos: Mapping[str, VideoPart]
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Number of the episode in the data."""
        return self.data.number


def rows_by_episode(
    files: DatasetFiles, name: str, *, fps: float, number: int | None = None, frames: int | None = None
) -> Iterator[EpisodeRows]:
    """Yield the episodes of a data file.

    Args:
        files: of the dataset.
        name: of the data file.
        fps: frames per second.
        number: of the episode that is alone in the file; None: `episode_index` tells.
        frames: that the metadata lists for the file, or for all files; None: it does not say.

    Raises:
        DatasetError: the file is missing or damaged, holds far more rows than frames, or the frames of an
            episode are not all there.
    """
    path = files.root / name
    needed = ["task_index"] if number is not None else ["task_index", "episode_index"]
    available = files.column_names(name)
    optional = [column for column in OPTIONAL if column in available]
    table = files.table(name, [*needed, *optional], frames=frames)
    facts = {column: _numbers(table, column, path) for column in needed}
    for column in optional:
        with suppress(DatasetError):  # others may tell as much
            facts[column] = _numbers(table, column, path)
    if number is None:
        owner = facts["episode_index"].astype(np.int64)
        order = np.argsort(owner, kind="stable")
        starts = np.flatnonzero(np.diff(owner[order])) + 1
        groups = [(int(owner[own[0]]), own) for own in np.split(order, starts) if len(own)]
    else:
        groups = [(number, np.arange(len(table)))]
    for episode, rows in groups:
        own = {column: values[rows] for column, values in facts.items()}
        ordered = _in_order(own, f"{path}: episode {episode}")
        own = {column: values[ordered] for column, values in own.items()}
        yield EpisodeRows(
            number=episode,
            file=name,
            rows=rows[ordered].astype(np.int64),
            first_index=int(own["index"][0]) if "index" in own and len(rows) else -1,
            tasks=own["task_index"].astype(np.int64),
            clock_fault=_clock_fault(own.get("timestamp"), fps),
        )


def _numbers(table: pa.Table, column: str, path: Path) -> NDArray[Any]:
    """Return a column of one number each; only timestamps may be anything else than whole."""
    values = column_values(table, column, path=path)
    if values.ndim != 1:
        raise DatasetError(f"{path}: column {column!r} holds lists")
    is_whole = values.dtype.kind in "iu" or bool(np.all(np.isfinite(values) & (values == np.floor(values))))
    if column != "timestamp" and not is_whole:
        raise DatasetError(f"{path}: column {column!r} holds something else than whole numbers")
    return values


def _in_order(facts: Mapping[str, NDArray[Any]], what: str) -> NDArray[np.int64]:
    """Return the order of an episode's rows by their frame numbers, each of which must occur once."""
    length = len(next(iter(facts.values()))) if facts else 0
    for column in ("frame_index", "index"):
        if column in facts:
            order = np.argsort(facts[column], kind="stable").astype(np.int64)
            steps = facts[column][order].astype(np.int64)
            if len(steps) and np.array_equal(
                steps - (steps[0] if column == "index" else 0), np.arange(length)
            ):
                return order
    raise DatasetError(f"{what} lacks rows, or holds some twice: 'frame_index' does not count from 0")


def _clock_fault(timestamps: NDArray[Any] | None, fps: float) -> str:
    if timestamps is None or not len(timestamps):
        return ""
    times = timestamps.astype(np.float64)
    if not np.isfinite(times).all():
        return "are not finite"
    off = (times - np.arange(len(times)) / fps) * fps  # in frames
    if np.abs(off).max() <= 0.5:
        return ""
    drift = np.abs(off - off[0]).max()
    return f"are up to {drift:.1f} frames off" if drift > 0.5 else f"begin at {times[0]:g} s"
