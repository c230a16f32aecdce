"""Check videos: files that are missing, damaged, too short, or show nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rdvla.data.check.findings import Finding, Severity
from rdvla.data.check.stored import AGAIN, INFO, StoredDataset, StoredEpisode
from rdvla.data.decoding import DECODE_ERRORS

FEW_FRAMES = 2  # by which a video may differ from the episodes' length, as encoders drop the last ones
SECONDS_BETWEEN_KEYFRAMES = 4.0
LOOKS = 6  # frames of a video to compare
WRONG_START = 0.35  # frames


@dataclass
class VideoFile:
    """One file, and the episodes that are said to lie in it."""

    path: Path
    name: str  # relative to the dataset
    episodes: list[StoredEpisode] = field(default_factory=list)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the episodes."""
        return tuple(episode.index for episode in self.episodes)

    @property
    def frames(self) -> int:
        """Number of frames that its episodes have."""
        return sum(episode.length for episode in self.episodes)


@dataclass(frozen=True)
class Probe:
    """What a file says of itself and shows."""

    frames: int
    fps: float
    height: int
    width: int
    keyframes: int
    images: list[NDArray[np.uint8]]  # some, evenly spread


def check_videos(data: StoredDataset, *, decode_all: bool = False) -> Iterator[Finding]:
    """Find what is wrong with the videos of every camera.

    Args:
        data: the dataset.
        decode_all: decode every frame; otherwise the files are indexed and some frames are decoded.
    """
    for key, feature in data.features.items():
        if feature.get("dtype") == "video":
            files, missing = _files(data, key)
            yield from _missing(data, key, files, missing)
            found = [_file(data, key, feature, file, decode_all=decode_all) for file in files]
            yield from _merged(finding for findings in found for finding in findings)
    known = {key for key, feature in data.features.items() if feature.get("dtype") == "video"}
    folders = {
        part for p in (data.root / "videos").rglob("*.mp4") for part in p.relative_to(data.root).parts[1:-1]
    }
    unknown = sorted(name for name in folders - known if not name.startswith("chunk-"))
    if unknown:
        message = f"there are videos that {INFO} does not declare: {', '.join(unknown)}"
        yield Finding("warning", "videos", message, f"declare the camera in {INFO}")


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Merge findings that say the same of several files."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.check, finding.message), []).append(finding)
    for same in alike.values():
        episodes = tuple(index for finding in same for index in finding.episodes)
        file = same[0].file if len(same) == 1 else f"{same[0].file} and {len(same) - 1} more"
        yield replace(same[0], file=file, episodes=episodes)


def _files(data: StoredDataset, key: str) -> tuple[list[VideoFile], list[StoredEpisode]]:
    """Return a camera's files, and the episodes without one. A file is also found where v2 usually has it."""
    files: dict[Path, VideoFile] = {}
    missing = []
    by_name = {p.name: p for p in sorted((data.root / "videos").rglob("*.mp4")) if key in p.parts}
    for episode in data.with_data or data.episodes:
        named = _named(data, key, episode)
        path = data.root / named if named else None
        if path is None or not path.is_file():
            path = by_name.get(f"episode_{episode.index:06d}.mp4")
        if path is None:
            missing.append(episode)
            continue
        name = path.relative_to(data.root).as_posix()
        files.setdefault(path, VideoFile(path, name)).episodes.append(episode)
    return list(files.values()), missing


def _named(data: StoredDataset, key: str, episode: StoredEpisode) -> str | None:
    """Return where the metadata says an episode's video is."""
    chunk = episode.index // data.chunks_size
    names = {
        "video_key": key,
        "episode_index": episode.index,
        "episode_chunk": chunk,
        "chunk_index": episode.record.get(f"videos/{key}/chunk_index", chunk),
        "file_index": episode.record.get(f"videos/{key}/file_index", 0),
    }
    try:
        return str(data.info["video_path"]).format(**names)
    except (KeyError, ValueError, IndexError, TypeError):
        return None


def _missing(
    data: StoredDataset, key: str, files: list[VideoFile], missing: list[StoredEpisode]
) -> Iterator[Finding]:
    numbers = tuple(episode.index for episode in missing)
    fix = "get the files; rdvla train leaves these episodes out and says so"
    if missing and not files:
        message = f"no episode has a video of this camera, which {INFO} declares"
        fix = f"get the files, or remove the camera from {INFO}; rdvla train leaves it out and says so"
        yield Finding("error", "missing-videos", message, fix, None, (), key)
    elif missing:
        message = f"{len(missing)} of {len(data.with_data)} episodes have no video"
        yield Finding("error", "missing-videos", message, fix, None, numbers, key)
    elsewhere = [
        (file, episode)
        for file in files
        for episode in file.episodes
        if _named(data, key, episode) != file.name
    ]
    if elsewhere:
        file, episode = elsewhere[0]
        message = f"video_path leads to {_named(data, key, episode)}, the file is {file.name}"
        episodes = tuple(episode.index for _, episode in elsewhere)
        yield Finding("warning", "paths", message, f"correct video_path in {INFO}", INFO, episodes, key)


def _file(
    data: StoredDataset, key: str, feature: dict[str, Any], file: VideoFile, *, decode_all: bool
) -> Iterator[Finding]:
    try:
        probe = probe_video(file.path, decode_all=decode_all)
    except DECODE_ERRORS as error:
        message = f"it cannot be decoded: {str(error).replace(str(file.path), file.name)}"
        yield Finding("error", "damaged-video", message, AGAIN, file.name, file.numbers, key)
        return
    if abs(probe.frames - file.frames) > FEW_FRAMES:
        message = f"it holds {probe.frames} frames, its episodes have {file.frames}"
        severity: Severity = "error" if probe.frames < file.frames else "warning"
        yield Finding(severity, "video-length", message, AGAIN, file.name, file.numbers, key)
    if data.fps and probe.fps and abs(probe.fps - data.fps) > max(0.02 * data.fps, 0.05):
        message = f"the video runs at {probe.fps:.4g} frames per second, the dataset at {data.fps:g}"
        fix = f"correct fps in {INFO}, or encode the video again"
        yield Finding("error", "fps", message, fix, file.name, file.numbers, key)
    sizes = [size for size in feature.get("shape") or () if isinstance(size, int)]
    if len(sizes) == 3 and not {probe.height, probe.width} <= set(sizes):
        message = f"its images are {probe.height} x {probe.width} pixels, {INFO} declares {sizes}"
        yield Finding(
            "error", "video-size", message, f"correct the shape in {INFO}", file.name, file.numbers, key
        )
    if probe.fps and probe.frames > SECONDS_BETWEEN_KEYFRAMES * probe.fps * max(probe.keyframes, 1):
        message = "keyframes are far apart, so reading single frames is slow"
        fix = f"none needed; encoded with a keyframe every {data.fps:.0f} frames it would be faster"
        yield Finding("note", "keyframes", message, fix, file.name, file.numbers, key)
    if data.fps:
        yield from _times(data, key, file)
    yield from _content(key, file, probe)


def _times(data: StoredDataset, key: str, file: VideoFile) -> Iterator[Finding]:
    """Compare where episodes are said to begin in a shared file with where they follow each other."""
    starts = {episode.index: episode.record.get(f"videos/{key}/from_timestamp") for episode in file.episodes}
    known = {index: start * data.fps for index, start in starts.items() if isinstance(start, int | float)}
    at, wrong = 0, []
    for episode in sorted(file.episodes, key=lambda each: (known.get(each.index, 0.0), each.index)):
        if episode.index in known and abs(known[episode.index] - at) > WRONG_START:
            wrong.append(episode.index)
        at += episode.length
    if wrong:
        message = "from_timestamp is not where the episode begins, if they follow each other without gaps"
        fix = "correct meta/episodes; rdvla counts the pictures where it can, and leaves others out"
        yield Finding("warning", "video-times", message, fix, file.name, tuple(sorted(wrong)), key)


def _content(key: str, file: VideoFile, probe: Probe) -> Iterator[Finding]:
    if all((image == image[0, 0]).all() for image in probe.images):
        message = "it shows one colour only"
        yield Finding("warning", "blank-video", message, "leave the camera out", file.name, file.numbers, key)
    elif len(probe.images) > 1 and all((image == probe.images[0]).all() for image in probe.images):
        message = "it shows the same image throughout: the camera froze"
        yield Finding(
            "warning", "frozen-video", message, "leave the episode out", file.name, file.numbers, key
        )


def probe_video(path: Path, *, decode_all: bool) -> Probe:
    """Index a video file and decode some of its frames.

    Args:
        path: the file.
        decode_all: decode every frame, so damage anywhere is found.

    Raises:
        av.error.FFmpegError, OSError, ValueError: the file is damaged.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None and p.size]
        times = sorted(pts for pts, _ in packets if pts is not None)
        if not times:
            raise ValueError("it holds no frames")
        fps = float(stream.average_rate or stream.base_rate or 0)
        height, width = int(stream.height), int(stream.width)
        keyframes = sum(is_key for _, is_key in packets)
        if decode_all:
            images = _decode_all(container, stream, len(times))
        else:
            picked = [times[i] for i in np.unique(np.linspace(0, len(times) - 1, LOOKS).astype(int))]
            images = [_decode_at(container, stream, time) for time in picked]
    return Probe(len(times), fps, height, width, keyframes, images)


def _decode_all(container: Any, stream: Any, count: int) -> list[NDArray[np.uint8]]:
    container.seek(0, stream=stream)
    kept, decoded = [], 0
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise ValueError(f"frame {decoded} is damaged")
        if decoded in np.linspace(0, count - 1, LOOKS).astype(int):
            kept.append(frame.to_ndarray(format="rgb24"))
        decoded += 1
    if decoded < count:
        raise ValueError(f"only {decoded} of its {count} frames can be decoded")
    return kept


def _decode_at(container: Any, stream: Any, time: int) -> NDArray[np.uint8]:
    container.seek(time, stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise ValueError(f"it is damaged near {float(time * stream.time_base):.2f} s")
        if frame.pts is not None and frame.pts >= time:
            image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
            return image
    raise ValueError(f"it cannot be decoded at {float(time * stream.time_base):.2f} s")
