"""Check when frames were taken: their times, their numbers, and how long episodes are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rdvla.data.check.findings import Finding
from rdvla.data.check.stored import StoredDataset

SHORTEST = 1.0  # seconds
FEWEST_FRAMES = 5
CHUNK = 16
WRONG_FPS = 0.02  # of the declared
LOST_FRAME = 1.8  # control steps between two frames
DRIFT = 0.5  # control steps
FAR_OUT = 3.0  # standard deviations


def check_timing(data: StoredDataset) -> Iterator[Finding]:
    """Find wrong frequencies, lost frames, drifting clocks and episodes of odd lengths."""
    if data.fps:
        yield from _timestamps(data)
    yield from _numbers(data)
    yield from _lengths(data)


def _times(data: StoredDataset) -> dict[int, NDArray[np.float64]]:
    found = {e.index: e.columns["timestamp"] for e in data.with_data if "timestamp" in e.columns}
    return {index: times[:, 0].astype(np.float64) for index, times in found.items() if len(times) > 1}


def _timestamps(data: StoredDataset) -> Iterator[Finding]:
    times = _times(data)
    feature = "timestamp"
    unknown = tuple(index for index, t in times.items() if not np.isfinite(t).all())
    if unknown:
        yield Finding("error", "timestamps", "times are missing", "", None, unknown, feature)
    times = {index: t for index, t in times.items() if index not in unknown}
    backwards = tuple(index for index, t in times.items() if (np.diff(t) <= 0).any())
    if backwards:
        message = "times do not rise from frame to frame"
        yield Finding(
            "error", "timestamps", message, "record them again as frame_index / fps", None, backwards, feature
        )
    times = {index: t for index, t in times.items() if index not in backwards}
    if not times:
        return
    step = float(np.median(np.concatenate([np.diff(t) for t in times.values()])))
    if abs(step * data.fps - 1) > WRONG_FPS:
        message = f"info.json says {data.fps:g} Hz, the times of the frames say {1 / step:.4g} Hz"
        yield Finding("error", "fps", message, "correct fps in meta/info.json, or the times", feature=feature)
        return
    gaps = {i: int((np.diff(t) * data.fps > LOST_FRAME).sum()) for i, t in times.items()}
    lost = tuple(index for index, count in gaps.items() if count)
    if lost:
        message = f"{sum(gaps.values())} times a frame is missing (its time jumps)"
        yield Finding("warning", "timestamps", message, "leave these episodes out", None, lost, feature)
    offset = tuple(index for index, t in times.items() if abs(t[0]) * data.fps > DRIFT)
    if offset:
        message = f"times do not start at 0 (episode {offset[0]}: {times[offset[0]][0]:.6g} s)"
        yield Finding(
            "note", "timestamps", message, "none: times count from an episode's start", None, offset, feature
        )
    drift = {i: np.abs(t - t[0] - np.arange(len(t)) / data.fps).max() * data.fps for i, t in times.items()}
    drifting = tuple(index for index, far in drift.items() if far > DRIFT and index not in lost)
    if drifting:
        worst = max(drifting, key=drift.__getitem__)
        message = f"times drift from frame_index / fps (episode {worst}: by {drift[worst]:.1f} frames)"
        yield Finding(
            "warning", "timestamps", message, "record them as frame_index / fps", None, drifting, feature
        )


def _numbers(data: StoredDataset) -> Iterator[Finding]:
    wrong = tuple(
        e.index
        for e in data.with_data
        if "frame_index" in e.columns
        and not np.array_equal(e.columns["frame_index"][:, 0], np.arange(e.length))
    )
    if wrong:
        message = "frame_index does not count 0, 1, 2, ...: frames are missing, double or out of order"
        yield Finding("error", "frame-numbers", message, "get the data again", None, wrong, "frame_index")
    start, shifted = 0, []
    for episode in data.with_data:
        column = episode.columns.get("index")
        if column is not None and not np.array_equal(column[:, 0], np.arange(start, start + episode.length)):
            shifted.append(episode.index)
        start += episode.length
    if shifted:
        message = "index does not number the frames of all episodes through"
        yield Finding("warning", "frame-numbers", message, "number them again", None, tuple(shifted), "index")


def _lengths(data: StoredDataset) -> Iterator[Finding]:
    lengths = {episode.index: episode.length for episode in data.with_data}
    if not lengths:
        return
    single = tuple(index for index, length in lengths.items() if length <= 1)
    if single:
        yield Finding(
            "error", "length", "an episode of one frame moves nothing", "leave it out", None, single
        )
    fewest = max(FEWEST_FRAMES, SHORTEST * data.fps)
    short = tuple(index for index, length in lengths.items() if 1 < length < fewest)
    if short:
        message = f"shorter than {fewest:.0f} frames (the shortest has {min(lengths[i] for i in short)})"
        yield Finding(
            "warning", "length", message, "leave them out, unless the task is that short", None, short
        )
    below = tuple(index for index, length in lengths.items() if length < CHUNK)
    if below:
        message = f"shorter than an action chunk of {CHUNK}, which many policies have"
        yield Finding("note", "length", message, "none for rdvla, which repeats the last action", None, below)
    values = np.array(list(lengths.values()))
    far = FAR_OUT * values.std()
    for word, is_far in (("long", values > values.mean() + far), ("short", values < values.mean() - far)):
        odd = tuple(np.array(list(lengths))[is_far].tolist())
        if odd and far:
            usual = f"{values.mean():.0f} frames on average"
            message = f"unusually {word}: {usual}, {lengths[odd[0]]} in episode {odd[0]}"
            yield Finding("note", "length", message, "look at them: rdvla data inspect", None, odd)
    if values.std() > values.mean():
        yield Finding("note", "length", "the lengths of episodes differ very much", "")
