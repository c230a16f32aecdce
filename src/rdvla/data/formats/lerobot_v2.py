"""LeRobot's formats v2.0 and v2.1 for reading: one parquet file and one video per camera for each episode."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdvla.data.formats.base import HubFiles
from rdvla.data.formats.lerobot.episodes import EpisodeRecord, VideoPart, rows_by_episode, whole_number
from rdvla.data.formats.lerobot.files import INFO_PATH, DatasetFiles
from rdvla.data.formats.lerobot.info import LeRobotInfo
from rdvla.data.formats.lerobot.reader import LeRobotReader
from rdvla.errors import DatasetError

EPISODES_PATH = "meta/episodes.jsonl"
TASKS_PATH = "meta/tasks.jsonl"
EPISODE_FILE = re.compile(r".*/episode_(\d+)\.(parquet|mp4)")
VIDEO_FOLDERS = ("videos", "video")  # the second is wrong but published


@dataclass(frozen=True)
class LeRobotV2:
    """One of LeRobot's formats v2.x.

    Attributes:
        version: as in info.json, "v2.1".
    """

    version: str

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"LeRobot {self.version}"

    @property
    def hub(self) -> HubFiles:
        """Which files to download from the hub."""
        content = ("meta/*", "data/**", "images/**", *(f"{folder}/**" for folder in VIDEO_FOLDERS))
        return HubFiles(tag=self.version, markers=(INFO_PATH,), content=content)

    def rejects(self, path: Path) -> str | None:
        """Return why the dataset is not of this format; None: it is."""
        try:
            version = DatasetFiles(path).json(INFO_PATH).get("codebase_version")
        except DatasetError as error:
            return str(error)
        return None if version == self.version else f"it has format version {version!r}"

    def open(self, path: Path) -> LeRobotReader:
        """Read `meta/`, and find the episodes in the data files.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        info = LeRobotInfo.read(DatasetFiles(path))
        records, notes = _episodes(info)
        return LeRobotReader(info, _tasks(info), records, notes)


def _episodes(info: LeRobotInfo) -> tuple[list[EpisodeRecord], list[str]]:
    root = info.files.root
    data = _by_number(info.files.listing("data"), info.template("data_path", ""))
    lengths = _listed_lengths(info.files)
    notes: list[str] = []
    if lengths is None:
        notes.append(f"{root / EPISODES_PATH} is missing; the episodes are those in {root / 'data'}")
        lengths = dict.fromkeys(data)
    if not lengths:
        raise DatasetError(
            f"{root / 'data'} holds no file episode_<number>.parquet: the dataset is incomplete"
        )
    if missing := [number for number in sorted(lengths) if number not in data]:
        raise DatasetError(
            f"{root / 'data'}: episode_{missing[0]:06d}.parquet is missing, and so are "
            f"{len(missing) - 1} others of {len(lengths)}. Download the dataset again, or take them out of "
            f"{root / EPISODES_PATH}"
        )
    if unlisted := sorted(data.keys() - lengths.keys()):
        notes.append(
            f"{root / 'data'}: {len(unlisted)} episodes that {EPISODES_PATH} does not list are left out"
        )
    keys = [camera.key for camera in info.cameras.values() if camera.key not in info.stored]
    names = [name for folder in VIDEO_FOLDERS for name in info.files.listing(folder)]
    videos = {
        key: _by_number([n for n in names if key in n.split("/")], info.template("video_path", ""), key)
        for key in keys
    }
    records = []
    for number in sorted(lengths):
        rows = next(
            rows_by_episode(info.files, data[number], fps=info.fps, number=number, frames=lengths[number])
        )
        if not len(rows):
            raise DatasetError(f"{root / data[number]} holds no frames")
        if lengths[number] not in (None, len(rows)):
            notes.append(
                f"{root / EPISODES_PATH}: episode {number} has {lengths[number]} frames there and "
                f"{len(rows)} in its data file, which counts"
            )
        parts = {key: VideoPart(videos[key].get(number)) for key in keys}
        records.append(EpisodeRecord(rows, parts))
    return records, notes + _total_notes(info, records)


def _listed_lengths(files: DatasetFiles) -> dict[int, int | None] | None:
    """Return the frames of each episode in episodes.jsonl; None: there is no such file."""
    if not (files.root / EPISODES_PATH).is_file():
        return None
    lines = files.json_lines(EPISODES_PATH)
    lengths: dict[int, int | None] = {}
    for line in lines:
        number = whole_number(line.get("episode_index"))
        if number is None:
            raise DatasetError(f"{files.root / EPISODES_PATH}: a line has no 'episode_index': {line!s:.80}")
        lengths[number] = whole_number(line.get("length"))
    return lengths


def _by_number(names: Sequence[str], template: str, key: str = "") -> dict[int, str]:
    """Return the file of each episode by its number; if several have one, the one that info.json means."""
    found: dict[int, str] = {}
    for name in names:
        match = EPISODE_FILE.fullmatch(name)
        if match:
            number = int(match[1])
            if number not in found or name == _filled(template, number, key):
                found[number] = name
    return found


def _filled(template: str, number: int, key: str) -> str:
    try:
        return template.format(episode_chunk=number // 1000, episode_index=number, video_key=key)
    except (KeyError, ValueError, IndexError):
        return ""


def _tasks(info: LeRobotInfo) -> dict[int, str]:
    path = info.files.root / TASKS_PATH
    found: dict[int, str] = {}
    for line in info.files.json_lines(TASKS_PATH):
        number, task = whole_number(line.get("task_index")), line.get("task")
        if number is None or not isinstance(task, str):
            raise DatasetError(f"{path}: expected 'task_index' and 'task' in each line, got {line!s:.80}")
        found[number] = task
    return found


def _total_notes(info: LeRobotInfo, records: Sequence[EpisodeRecord]) -> list[str]:
    held: Mapping[str, int] = {
        "total_episodes": len(records),
        "total_frames": sum(len(record.data) for record in records),
    }
    wrong = {name: count for name, count in held.items() if info.content.get(name) != count}
    return [
        f"{info.files.root / INFO_PATH}: {name} is {info.content.get(name)}; the dataset holds {count}"
        for name, count in wrong.items()
    ]
