"""Which pictures of a video belong to which episode.

Pictures are numbered, and an episode's frames follow each other, so no clock can shift an image by a frame.
Where the recorded times leave a doubt, the number of pictures decides; where that leaves one too, the episode
is left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any

import av

from rdvla.data.decoding import DECODE_ERRORS, video_stream
from rdvla.data.formats.lerobot.declared import is_inside, oversized
from rdvla.data.formats.lerobot.episodes import EpisodeRecord, VideoPart
from rdvla.data.formats.lerobot.files import DatasetFiles
from rdvla.errors import DatasetError

ROUNDING = 0.35  # frames that a recorded time may be off and still tell which frame it means
REORDERED = 16  # pictures at most that H.264 and H.265 store in another order than they are shown
SHOWN = 10  # episodes that a note lists


@dataclass(frozen=True)
class VideoHeader:
    """What a video file says of itself.

    Attributes:
        frames: number of pictures that lie in the file as a whole and are shown: an edit list may hide some.
        height: in pixels.
        width: in pixels.
        fps: pictures per second, on average.
    """

    frames: int
    height: int
    width: int
    fps: float

    @classmethod
    def read(cls, source: Any, size: int) -> VideoHeader:
        """Read the header of an MP4 file.

        Args:
            source: its path, or an open file.
            size: its bytes.

        Raises:
            ValueError: with the reason, if nothing of the file can be read.
        """
        try:
            with av.open(source) as container:
                stream = video_stream(container)
                entries = [e.pos + e.size <= size for e in stream.index_entries if not e.is_discard]
                whole = len(entries)
                if False in entries:  # cut off; pictures just before may need one that is behind
                    whole = max(0, entries.index(False) - REORDERED)
                if not entries:  # a fragmented file has its index in many places
                    packets = container.demux(stream)
                    whole = sum(packet.pts is not None and not packet.is_discard for packet in packets)
                return cls(whole, stream.height, stream.width, float(stream.average_rate or 0))
        except DECODE_ERRORS as error:
            raise ValueError(f"cannot be opened as a video ({error})") from error


@dataclass(frozen=True)
class Placement:
    """Where one camera's images of the episodes are.

    Attributes:
        first: episode number -> number of its first picture in its file; those left out are not in it.
        left_out: episode number -> why, as a sentence about its video.
        notes: what was recovered.
        size: (height, width) of the pictures; (0, 0): no file can be read.
    """

    first: Mapping[int, int]
    left_out: Mapping[int, str]
    notes: Sequence[str]
    size: tuple[int, int]


def place(
    files: DatasetFiles,
    records: Sequence[EpisodeRecord],
    key: str,
    *,
    fps: float,
    declared: tuple[int, int] = (0, 0),
) -> Placement:
    """Find every episode's pictures of one camera; opens the header of each video.

    Args:
        files: of the dataset.
        records: the episodes.
        key: the camera's feature.
        fps: frames per second.
        declared: (height, width) in info.json; (0, 0): it does not say. Far larger pictures are not decoded.
    """
    by_file: dict[str, list[EpisodeRecord]] = {}
    left_out: dict[int, str] = {}
    for record in records:
        part = record.videos.get(key, VideoPart(None))
        if part.file is None:
            left_out[record.number] = f"no video of {key!r} is there, or meta/ does not say where it is"
        else:
            by_file.setdefault(part.file, []).append(record)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        known = {} if files.remote is None else files.remote.headers()
        headers = list(pool.map(lambda name: _header(files, name, known, declared), by_file))
    if files.remote is not None:
        read = {n: h for n, h in zip(by_file, headers, strict=True) if isinstance(h, VideoHeader)}
        files.remote.keep_headers(known | {name: list(astuple(header)) for name, header in read.items()})
    first: dict[int, int] = {}
    notes: list[str] = []
    surplus = 0
    size = _usual_size(list(by_file.values()), headers)
    for (name, own), header in zip(by_file.items(), headers, strict=True):
        if isinstance(header, str):
            left_out |= {record.number: header for record in own}
            continue
        if (header.height, header.width) != size:
            reason = (
                f"{files.root / name} has pictures of {header.width}x{header.height}, most episodes have "
                f"{size[1]}x{size[0]}"
            )
            left_out |= {record.number: reason for record in own}
            continue
        parts = [(record.videos[key], record) for record in own]
        starts, note = _starts(parts, header, fps)
        notes += [f"{files.root / name}: {note}"] if note else []
        reasons = _faults(parts, starts, header, fps)
        surplus += _has_surplus(parts, header) and not any(reasons)
        for (_, record), start, reason in zip(parts, starts, reasons, strict=True):
            if reason:
                left_out[record.number] = f"{files.root / name} {reason}"
            else:
                first[record.number] = start
    if surplus:
        notes.append(
            f"{surplus} of the videos of {key!r} have more pictures than their episode has frames; "
            "the first are used"
        )
    return Placement(first, left_out, notes, size)


def describe_left_out(camera: str, left_out: Mapping[int, str], total: int) -> str:
    """Return a note that counts and names the episodes without readable images of a camera."""
    numbers = sorted(left_out)
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
    return (
        f"{len(numbers)} of {total} episodes are left out, as their images of camera {camera!r} cannot be "
        f"used: {shown}. The first of them: {left_out[numbers[0]]}"
    )


def _usual_size(
    records: Sequence[Sequence[EpisodeRecord]], headers: Sequence[VideoHeader | str]
) -> tuple[int, int]:
    """Return the size that most episodes have, of equals the first; (0, 0) if no file can be read."""
    counts: Counter[tuple[int, int]] = Counter()
    for own, header in zip(records, headers, strict=True):
        if isinstance(header, VideoHeader):
            counts[header.height, header.width] += len(own)
    return counts.most_common(1)[0][0] if counts else (0, 0)


def _header(
    files: DatasetFiles, name: str, known: Mapping[str, list[Any]], declared: tuple[int, int]
) -> VideoHeader | str:
    if not is_inside(name):
        return f"{name!r:.200} would lie outside of the dataset"
    if name not in known and not files.exists(name):
        return f"{files.root / name} is missing"
    try:
        if name in known:
            header = VideoHeader(*known[name])
        else:
            with files.opened(name) as (source, size):
                header = VideoHeader.read(source, size)
    except (ValueError, DatasetError) as error:
        return f"{files.root / name} {error}"
    reason = oversized(header.height, header.width, declared=declared)
    return f"{files.root / name} {reason}" if reason else header


def _starts(
    parts: Sequence[tuple[VideoPart, EpisodeRecord]], header: VideoHeader, fps: float
) -> tuple[list[int], str]:
    """Return the first picture of each episode in one file, and a note if the recorded times were wrong."""
    recorded = [(part.start or 0.0) * fps for part, _ in parts]
    starts = [round(start) for start in recorded]
    total = sum(len(record.data) for _, record in parts)
    if total != header.frames:
        return starts, ""
    # As many pictures as frames: they follow each other, whatever the times say.
    order = sorted(range(len(parts)), key=lambda i: (recorded[i], parts[i][1].number))
    found = [0] * len(parts)
    at = 0
    for i in order:
        found[i] = at
        at += len(parts[i][1].data)
    if found == starts:
        return starts, ""
    return found, "the times in meta/episodes do not fit; the pictures were counted instead"


def _has_surplus(parts: Sequence[tuple[VideoPart, EpisodeRecord]], header: VideoHeader) -> bool:
    """Return whether a file that is one episode's own has more pictures than that has frames."""
    return parts[0][0].start is None and header.frames > sum(len(record.data) for _, record in parts)


def _faults(
    parts: Sequence[tuple[VideoPart, EpisodeRecord]], starts: Sequence[int], header: VideoHeader, fps: float
) -> list[str]:
    """Return for each episode of a file why its pictures cannot be told, empty if they can."""
    total = sum(len(record.data) for _, record in parts)
    if total == header.frames:
        return [""] * len(parts)
    following = sorted(starts)
    reasons = []
    for (part, record), start in zip(parts, starts, strict=True):
        length, stop = len(record.data), start + len(record.data)
        after = [other for other in following if other > start]
        own = header.frames if part.start is None else _pictures(part, fps)
        off = abs((part.start or 0.0) * fps - start)
        reason = ""
        if stop > header.frames:
            reason = f"has {header.frames} pictures, and the episode needs those up to {stop}"
        elif following.count(start) > 1 or (after and after[0] < stop):
            reason = f"begins the next episode before this one has its {length} pictures"
        elif own is not None and own < length:
            reason = f"has {own} pictures of the episode for {length} frames"
        elif off > ROUNDING:
            reason = f"begins the episode between two pictures ({part.start} s at {fps:g} per second)"
        elif abs(header.fps / fps - 1) > 0.01:
            reason = f"has {header.fps:g} pictures per second, the dataset {fps:g}"
        elif own != length and record.data.clock_fault:
            reason = (
                f"has more pictures than the episode's {length} frames, and the timestamps do not tell which "
                f"belong together: they {record.data.clock_fault}"
            )
        reasons.append(reason)
    return reasons


def _pictures(part: VideoPart, fps: float) -> int | None:
    """Return how many pictures an episode has by its recorded times; None: they do not say."""
    if part.stop is None or part.start is None:
        return None
    return round((part.stop - part.start) * fps)
