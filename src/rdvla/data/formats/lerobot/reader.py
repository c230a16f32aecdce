"""Read a dataset of one of LeRobot's formats, once it is known where its episodes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.clips import Clip
from rdvla.data.decoding import DECODE_ERRORS, ImageConverter, decode_picture
from rdvla.data.features import Camera, Columns, Feature
from rdvla.data.formats.base import CameraReader, check_values
from rdvla.data.formats.lerobot.cameras import EpisodeFiles, StoredCamera, VideoCamera, picture_bytes
from rdvla.data.formats.lerobot.episodes import EpisodeRecord
from rdvla.data.formats.lerobot.files import RowError, matrix
from rdvla.data.formats.lerobot.info import LeRobotInfo
from rdvla.data.formats.lerobot.videos import Placement, describe_left_out, place
from rdvla.errors import DatasetError

EPISODES_TO_TRY = 8  # for a picture that is whole


@dataclass(frozen=True)
class LeRobotReader:
    """One dataset, open for reading; see `DatasetReader`.

    Attributes:
        info: what info.json says.
        instructions: by task_index.
        records: the episodes, in their order.
        notes: sentences about what was repaired or left out.
        placements: where the images of the selected cameras with videos are, by the camera's key.
        sizes: (height, width) of selected cameras' images as they are, by the camera's key.
    """

    info: LeRobotInfo
    instructions: Mapping[int, str]
    records: Sequence[EpisodeRecord]
    notes: Sequence[str]
    placements: Mapping[str, Placement] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.info.files.root

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        return self.info.fps

    @property
    def robot_type(self) -> str | None:
        """What the dataset calls its robot; None if it does not say."""
        return self.info.robot_type

    @property
    def tasks(self) -> Sequence[str]:
        """The different instructions, in the order of their task_index."""
        return [self.instructions[number] for number in sorted(self.instructions)]

    @property
    def features(self) -> Mapping[str, Feature]:
        """Declarations of the numeric features, LeRobot's default ones left out."""
        return self.info.features

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Features that are declared but cannot be read, with the reason."""
        return self.info.unreadable

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """Short name -> camera; depth maps are left out."""
        return {
            name: Camera(camera.key, *self.sizes.get(camera.key, (camera.height, camera.width)))
            for name, camera in self.info.cameras.items()
        }

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) number of frames of each episode."""
        return np.array([len(record.data) for record in self.records], dtype=np.int64)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(E,) the dataset's own number of each episode."""
        return np.array([record.number for record in self.records], dtype=np.int64)

    @property
    def sources(self) -> Sequence[Mapping[str, Any]]:
        """What each episode says of its origin."""
        return [record.source for record in self.records]

    def fingerprint(self) -> str:
        """Return a text that changes with the dataset's content."""
        return self.info.files.fingerprint()

    def with_cameras(self, names: Sequence[str] | None) -> LeRobotReader:
        """Return this dataset without the episodes whose images of some cameras cannot be read.

        Raises:
            DatasetError: no episode remains, or none of a named camera's files is there.
        """
        wanted = list(self.info.cameras if names is None else names)
        notes = list(self.notes)
        placements: dict[str, Placement] = {}
        sizes: dict[str, tuple[int, int]] = {}
        left_out: set[int] = set()
        absent: set[str] = set()
        for name in wanted:
            camera = self.info.cameras[name]
            if camera.key in self.info.stored:
                reason, damaged = self._stored_faults(camera, sizes)
                left_out |= damaged.keys()
                notes += [describe_left_out(name, damaged, len(self.records))] if damaged else []
            else:
                placement = place(
                    self.info.files,
                    self.records,
                    camera.key,
                    fps=self.fps,
                    declared=(camera.height, camera.width),
                )
                reason = "" if placement.first else next(iter(placement.left_out.values()))
            if reason and names is not None:
                raise DatasetError(f"{self.root}: no image of camera {name!r} can be read: {reason}")
            if reason:
                absent.add(name)
                notes.append(f"Camera {name!r} is left out, as no image of it can be read: {reason}")
            elif camera.key not in self.info.stored:
                placements[camera.key] = placement
                sizes[camera.key] = placement.size
                notes += placement.notes
                left_out |= placement.left_out.keys()
                if placement.left_out:
                    notes.append(describe_left_out(name, placement.left_out, len(self.records)))
        records = [record for record in self.records if record.number not in left_out]
        if not records:
            raise DatasetError(
                f"{self.root}: no episode has images of all of these cameras: {', '.join(wanted)}. "
                f"{' '.join(notes)}"
            )
        if wanted and len(absent) == len(wanted):
            raise DatasetError(f"{self.root}: none of its cameras has images. {' '.join(notes)}")
        cameras = {name: camera for name, camera in self.info.cameras.items() if name not in absent}
        notes += self._size_notes(cameras, sizes)
        notes += _clock_notes(records) if placements else []
        info = replace(self.info, cameras=cameras)
        return replace(self, info=info, records=records, notes=notes, placements=placements, sizes=sizes)

    def task_of_frames(self) -> NDArray[np.int64]:
        """Return the number of each frame's instruction in `tasks`, (N,).

        Raises:
            DatasetError: a task_index is not among the tasks.
        """
        numbers = np.concatenate([record.data.tasks for record in self.records])
        place = {number: index for index, number in enumerate(sorted(self.instructions))}
        used, inverse = np.unique(numbers, return_inverse=True)
        if unknown := [number for number in used.tolist() if number not in place]:
            raise DatasetError(
                f"{self.root / 'data'}: task_index {unknown[0]} is not among the tasks in meta/"
            )
        return np.array([place[number] for number in used.tolist()], dtype=np.int64)[inverse]

    def columns(self, names: Sequence[str]) -> Columns:
        """Read numeric features, name -> (N, size).

        Raises:
            DatasetError: naming the data file that is missing or damaged, or the value that is not finite.
        """
        if not names:
            return {}
        by_file: dict[str, list[int]] = {}
        for number, record in enumerate(self.records):
            by_file.setdefault(record.data.file, []).append(number)
        episodes: list[Columns] = [{} for _ in self.records]
        for file, numbers in by_file.items():
            table = self._file_columns(file, names)
            for number in numbers:
                episodes[number] = self._episode_columns(self.records[number], table)
        try:
            return {name: np.concatenate([own[name] for own in episodes]) for name in names}
        except ValueError as error:
            raise DatasetError(f"{self.root / 'data'}: the files differ in the size of a feature") from error

    def open_camera(self, name: str, convert: ImageConverter) -> CameraReader:
        """Return a reader of one camera's images; it opens no file yet."""
        key = self.info.cameras[name].key
        stop = np.cumsum(self.lengths)
        files = EpisodeFiles(self.info.files, self.image_files(name), stop)
        if key in self.info.stored:
            rows = np.concatenate([record.data.rows for record in self.records])
            return StoredCamera(files, key, convert, rows=rows)
        first = self.placements[key].first
        shift = np.array([first[record.number] for record in self.records]) - (stop - self.lengths)
        return VideoCamera(files, convert, shift=shift)

    def image_files(self, name: str) -> list[str]:
        """Return the file of each episode's images of a camera, after `with_cameras`, E names."""
        key = self.info.cameras[name].key
        if key in self.info.stored:
            return [record.data.file for record in self.records]
        return [str(record.videos[key].file) for record in self.records]

    def file_size(self, name: str) -> int:
        """Return the bytes of one of `image_files`."""
        return self.info.files.size(name)

    @property
    def is_streamed(self) -> bool:
        """Whether files with images are fetched when they are needed."""
        return self.info.files.remote is not None

    def kept_as(self, name: str) -> str:
        """Return the name of one of `image_files` in the folder that keeps fetched files."""
        remote = self.info.files.remote
        return name if remote is None else remote.shard(name).key

    def prefetch(self, name: str, *, spare: frozenset[str]) -> bool:
        """Fetch one of `image_files` if there is room, and return whether it is here.

        Args:
            name: of the file.
            spare: files that stay for it, each as `kept_as` names it.
        """
        remote = self.info.files.remote
        return remote is None or remote.prefetch(name, spare=spare)

    def clip(self, camera: str, episode: int) -> Clip | None:
        """Return where an episode's images of a camera lie, after `with_cameras`; None: not in a video.

        Args:
            camera: of `cameras`.
            episode: its place in `records`.
        """
        placement = self.placements.get(self.info.cameras[camera].key)
        if placement is None:
            return None
        record = self.records[episode]
        file = str(record.videos[self.info.cameras[camera].key].file)
        return Clip(self.root / file, placement.first[record.number], len(record.data))

    def _file_columns(self, file: str, names: Sequence[str]) -> Columns:
        stored = {self.info.stored_name(name): name for name in names}
        table = self.info.files.table(file, list(stored))
        try:
            return {present: matrix(table, name, path=self.root / file) for name, present in stored.items()}
        except RowError as error:
            raise DatasetError(f"{error}{self._episode_of(file, error.row)}") from error

    def _episode_of(self, file: str, row: int) -> str:
        for record in self.records:
            if record.data.file == file and (own := np.flatnonzero(record.data.rows == row)).size:
                return f" (episode {record.number}, frame {own[0]})"
        return ""

    def _episode_columns(self, record: EpisodeRecord, table: Columns) -> Columns:
        own = {name: values[record.data.rows] for name, values in table.items()}
        for name, values in own.items():
            check_values(
                values,
                self.features[name],
                name=name,
                path=self.root / record.data.file,
                rows=record.data.rows,
                episode=record.number,
            )
        return own

    def _stored_faults(self, camera: Camera, sizes: dict[str, tuple[int, int]]) -> tuple[str, dict[int, str]]:
        """Decode the first pictures of episodes, up to one that is whole, for a camera's size.

        Returns:
            why none of them can be decoded, empty if one can; episode number -> why it is left out then.
        """
        damaged: dict[int, str] = {}
        for record in self.records[:EPISODES_TO_TRY]:
            try:
                cell = self.info.files.cell(record.data.file, camera.key, int(record.data.rows[0]))
                picture = decode_picture(picture_bytes(self.info.files, cell))
            except (DatasetError, KeyError, TypeError, *DECODE_ERRORS) as error:
                damaged[record.number] = str(error)
            else:
                sizes[camera.key] = picture.height, picture.width
                return "", damaged
        return next(iter(damaged.values())), {}

    def _size_notes(self, cameras: Mapping[str, Camera], sizes: Mapping[str, tuple[int, int]]) -> list[str]:
        return [
            f"Camera {name!r} has images of {width}x{height}, though info.json says "
            f"{camera.width}x{camera.height}"
            for name, camera in cameras.items()
            for height, width in [sizes.get(camera.key, (0, 0))]
            if 0 not in (height, camera.height) and (height, width) != (camera.height, camera.width)
        ]


def _clock_notes(records: Sequence[EpisodeRecord]) -> list[str]:
    faults = [record for record in records if record.data.clock_fault]
    if not faults:
        return []
    first = faults[0]
    return [
        f"The timestamps of {len(faults)} of {len(records)} episodes are not frame / fps, so images are "
        f"found by the number of their frame. Those of episode {first.number} {first.data.clock_fault}"
    ]
