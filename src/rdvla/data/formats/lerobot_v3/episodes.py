"""Find the episodes of a dataset in format v3.0: in its data files, with what `meta/episodes` says of them.

`meta/episodes` names the episodes and their videos. Where their rows lie is looked up in the data files, as
published datasets have file numbers of the episode before and frame ranges that begin anew in each file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdvla.data.formats.lerobot.episodes import (
    EpisodeRecord,
    EpisodeRows,
    VideoPart,
    rows_by_episode,
    whole_number,
)
from rdvla.data.formats.lerobot.files import INFO_PATH
from rdvla.data.formats.lerobot.info import LeRobotInfo
from rdvla.data.formats.lerobot_v3.layout import DATA_PATH, VIDEO_PATH, FilePosition
from rdvla.errors import DatasetError

Line = Mapping[str, Any]  # of meta/episodes
FOLDER = "meta/episodes"


def read_episodes(info: LeRobotInfo) -> tuple[list[EpisodeRecord], list[str]]:
    """Return the episodes in the order of their numbers, and notes on what was repaired or left out.

    Raises:
        DatasetError: the rows of an episode are missing, or info.json counts episodes that are not there.
    """
    lines = _lines(info)
    data = _DataFiles.scan(info, frames=_listed_frames(lines))
    matched, notes = _match(info, lines, data)
    matched, more = _counted(info, matched)
    keys = [camera.key for camera in info.cameras.values() if camera.key not in info.stored]
    videos = {key: [name for name in info.files.listing("videos") if f"/{key}/" in name] for key in keys}
    records = []
    for number, (line, rows) in enumerate(matched):
        around = [matched[i][0] for i in (number - 1, number + 1) if 0 <= i < len(matched)]
        parts = {key: _video_part(info, line, around, key, videos[key]) for key in keys}
        records.append(EpisodeRecord(rows, parts, _source(line)))
    return records, notes + more


@dataclass(frozen=True)
class _DataFiles:
    """The episodes that the data files hold."""

    found: dict[int, list[EpisodeRows]]  # by episode number; several if files repeat an episode
    errors: dict[str, DatasetError]  # by file that cannot be read

    @classmethod
    def scan(cls, info: LeRobotInfo, *, frames: int | None) -> _DataFiles:
        found: dict[int, list[EpisodeRows]] = {}
        errors: dict[str, DatasetError] = {}
        for name in info.files.listing("data"):
            if name.endswith(".parquet"):
                try:
                    for rows in rows_by_episode(info.files, name, fps=info.fps, frames=frames):
                        found.setdefault(rows.number, []).append(rows)
                except DatasetError as error:
                    errors[name] = error
        return cls(found, errors)


def _lines(info: LeRobotInfo) -> list[Line]:
    """Return the lines of all files of `meta/episodes`, one per episode number, ascending."""
    lines: dict[int, Line] = {}
    for name in info.files.episode_files():
        available = info.files.column_names(name)
        columns = [c for c in available if not c.startswith("stats/")]
        if "episode_index" not in columns:
            raise DatasetError(f"{info.files.root / name} has no column 'episode_index'")
        for line in info.files.table(name, columns).to_pylist():
            if whole_number(line["episode_index"]) is not None:
                lines.setdefault(int(line["episode_index"]), line)
    return [lines[number] for number in sorted(lines)]


def _listed_frames(lines: Sequence[Line]) -> int | None:
    """Return the frames of all episodes; None if an episode does not say."""
    lengths = [whole_number(line.get("length")) for line in lines]
    known = [length for length in lengths if length is not None]
    return sum(known) if len(known) == len(lengths) else None


def _match(
    info: LeRobotInfo, lines: Sequence[Line], data: _DataFiles
) -> tuple[list[tuple[Line, EpisodeRows]], list[str]]:
    """Give each line of meta/episodes its rows: by episode number, or else by the first frame's number."""
    rows = [_by_number(info, line, data) for line in lines]
    used = {id(own) for own in rows if own is not None}
    left = [own for found in data.found.values() for own in found if id(own) not in used]
    notes: list[str] = []
    for number, line in enumerate(lines):
        if rows[number] is None:
            first, length = whole_number(line.get("dataset_from_index")), whole_number(line.get("length"))
            fits = [own for own in left if own.first_index == first and length in (None, len(own))]
            if len(fits) != 1:
                raise _missing_rows(info, line, data)
            rows[number] = fits[0]
            left.remove(fits[0])
            notes.append(
                f"{info.files.root / FOLDER}: episode {line['episode_index']} has another number in the "
                f"data; it was found by its first frame, {first}"
            )
    stale = sum(
        own is not None and _pointer(info, line) not in (None, own.file)
        for line, own in zip(lines, rows, strict=True)
    )
    if stale:
        notes.append(
            f"{info.files.root / FOLDER}: {stale} episodes are in other data files than it says; they were "
            "found by their episode_index"
        )
    matched = [(line, own) for line, own in zip(lines, rows, strict=True) if own is not None]
    if unlisted := len(data.found.keys() - {own.number for _, own in matched}):
        notes.append(
            f"{info.files.root / 'data'}: {unlisted} episodes that {FOLDER} does not list are left out"
        )
    return sorted(matched, key=lambda pair: pair[1].number), notes


def _by_number(info: LeRobotInfo, line: Line, data: _DataFiles) -> EpisodeRows | None:
    length = whole_number(line.get("length"))
    found = data.found.get(int(line["episode_index"]), [])
    whole = [rows for rows in found if length in (None, len(rows))]
    named = [rows for rows in whole if rows.file == _pointer(info, line)]
    if len(whole) > 1 and not named:
        raise DatasetError(
            f"{info.files.root}: episode {line['episode_index']} is in several data files: "
            f"{', '.join(rows.file for rows in whole)}; remove all but one"
        )
    return next(iter(named or whole), None)


def _missing_rows(info: LeRobotInfo, line: Line, data: _DataFiles) -> DatasetError:
    pointer = _pointer(info, line)
    if pointer in data.errors:
        return data.errors[pointer]
    if pointer is not None and not (info.files.root / pointer).is_file():
        return DatasetError(
            f"{info.files.root / pointer} is missing: the dataset is incomplete, make or download it again"
        )
    if data.errors:
        return next(iter(data.errors.values()))
    number = int(line["episode_index"])
    held = ", ".join(str(len(rows)) for rows in data.found.get(number, [])) or "none"
    where = info.files.root / (pointer or "data")
    return DatasetError(
        f"{where} does not hold the frames that {FOLDER} says: episode {number} should have "
        f"{line.get('length')} frames and has {held}. The dataset is damaged or incomplete"
    )


def _counted(
    info: LeRobotInfo, matched: list[tuple[Line, EpisodeRows]]
) -> tuple[list[tuple[Line, EpisodeRows]], list[str]]:
    """Compare with the totals of info.json.

    An append that was interrupted before its last step leaves episodes that info.json does not count yet.
    """
    path = info.files.root / INFO_PATH
    episodes, frames = (whole_number(info.content.get(f"total_{kind}")) for kind in ("episodes", "frames"))
    held = len(matched), sum(len(rows) for _, rows in matched)
    if not matched or (episodes is not None and episodes > held[0]):
        raise DatasetError(
            f"{info.files.root / FOLDER}: it lists {held[0]} episodes, and info.json counts {episodes}: a "
            "file is missing or damaged. If nothing is, correct total_episodes in info.json"
        )
    if (episodes, frames) == held:
        return matched, []
    if episodes and sum(len(rows) for _, rows in matched[:episodes]) == frames:
        note = f"{path}: {held[0] - episodes} episodes that it does not count are left out"
        return matched[:episodes], [note]
    return matched, [
        f"{path} counts {episodes} episodes and {frames} frames; the dataset holds {held[0]} and {held[1]}, "
        "and all of them are read"
    ]


def _video_part(
    info: LeRobotInfo, line: Line, around: Sequence[Line], key: str, existing: Sequence[str]
) -> VideoPart:
    start = line.get(f"videos/{key}/from_timestamp")
    stop = line.get(f"videos/{key}/to_timestamp")
    file = _video_file(info, line, key)
    if file is None and len(existing) == 1:
        file = existing[0]
    elif file is None and len(around) == 2:
        neighbours = {_video_file(info, other, key) for other in around}
        file = neighbours.pop() if len(neighbours) == 1 else None
    seconds = _seconds(start)
    return VideoPart(None) if seconds is None else VideoPart(file, seconds, _seconds(stop))


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _video_file(info: LeRobotInfo, line: Line, key: str) -> str | None:
    return _fill(info.template("video_path", VIDEO_PATH), VIDEO_PATH, line, f"videos/{key}", key)


def _pointer(info: LeRobotInfo, line: Line) -> str | None:
    return _fill(info.template("data_path", DATA_PATH), DATA_PATH, line, "data", "")


def _fill(template: str, default: str, line: Line, prefix: str, key: str) -> str | None:
    numbers = [whole_number(line.get(f"{prefix}/{kind}_index")) for kind in ("chunk", "file")]
    if numbers[0] is None or numbers[1] is None:
        return None
    position = FilePosition(numbers[0], numbers[1])
    try:
        return position.path(template, video_key=key)
    except (KeyError, ValueError, IndexError):
        return position.path(default, video_key=key)


def _source(line: Line) -> Mapping[str, Any]:
    """Return what an episode says of its origin; others than rdvla may write plain text there."""
    text = line.get("source")
    try:
        source = json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError):
        source = None
    return source if isinstance(source, dict) else {"source": str(text)}
