"""Check what the metadata says: by itself, and against the data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rdvla.data.check.findings import Finding, Severity, listed
from rdvla.data.check.stored import INFO, USUAL_CHUNK, StoredDataset
from rdvla.data.features import ACTION, STATE
from rdvla.data.formats.lerobot.info import DEFAULT_FEATURES
from rdvla.errors import nearest

KNOWN_VERSIONS = ("v2.0", "v2.1", "v3.0")
REQUIRED = ("codebase_version", "fps", "total_episodes", "total_frames", "features", "data_path")
CORRECT_INFO = f"correct {INFO}"


def check_metadata(data: StoredDataset) -> Iterator[Finding]:
    """Find what is missing, impossible or contradictory in `meta/`."""
    if data.info:
        yield from _info(data)
        yield from _totals(data)
        yield from _features(data)
    yield from _episodes(data)
    yield from _tasks(data)
    yield from _statistics(data)


def _info(data: StoredDataset) -> Iterator[Finding]:
    missing = [name for name in REQUIRED if name not in data.info]
    if missing:
        yield Finding("error", "metadata", f"it lacks {listed(missing)}", CORRECT_INFO, INFO)
    if data.version and data.version not in KNOWN_VERSIONS:
        message = f"format version {data.version!r} is none of {', '.join(KNOWN_VERSIONS)}"
        yield Finding(
            "warning", "metadata", message, "convert it with the LeRobot version that wrote it", INFO
        )
    if "fps" in data.info and not data.fps:
        yield Finding("error", "fps", f"fps is {data.info['fps']!r}, no frequency", CORRECT_INFO, INFO)
    size = data.info.get("chunks_size", USUAL_CHUNK)
    if not isinstance(size, int) or size < 1:
        yield Finding("error", "metadata", f"chunks_size is {size!r}, no number", CORRECT_INFO, INFO)
    for name in ("data_path", "video_path"):
        template = data.info.get(name)
        if isinstance(template, str) and (template.startswith("/") or ".." in template):
            message = f"{name} leads out of the dataset: {template}"
            yield Finding("error", "paths", message, "make it relative to the dataset", INFO)


def _totals(data: StoredDataset) -> Iterator[Finding]:
    found = data.with_data
    described = sum(bool(episode.record) for episode in data.episodes)
    counts: list[tuple[str, int, str]] = [
        ("total_episodes", described, "episodes are described"),
        ("total_episodes", len(found), "episodes have data"),
        ("total_frames", sum(episode.length for episode in found), "frames are there"),
    ]
    if data.tasks:
        counts.append(("total_tasks", len(data.tasks), "tasks are described"))
    for name, count, what in counts:
        total = data.info.get(name)
        if total is not None and not isinstance(total, int):
            yield Finding("error", "totals", f"{name} is {total!r}, no number", CORRECT_INFO, INFO)
        elif isinstance(total, int) and count and total != count:
            severity: Severity = "warning" if name == "total_tasks" else "error"
            yield Finding(severity, "totals", f"{name} is {total}, but {count} {what}", CORRECT_INFO, INFO)
    splits = data.info.get("splits")
    for split, text in (splits if isinstance(splits, dict) else {}).items():
        bounds = re.fullmatch(r"(\d+):(\d+)", str(text))
        if bounds and int(bounds[2]) > len(data.episodes):
            message = f"the split {split!r} is {text}, but there are {len(data.episodes)} episodes"
            yield Finding("warning", "splits", message, f"write {bounds[1]}:{len(data.episodes)}", INFO)


def _features(data: StoredDataset) -> Iterator[Finding]:
    numeric = {n: f for n, f in data.features.items() if f.get("dtype") not in ("video", "image", "string")}
    columns = {name for episode in data.with_data for name in episode.columns}
    if columns:
        absent = [name for name in numeric if name not in columns]
        for name in absent:
            severity: Severity = "error" if name in (ACTION, STATE) else "warning"
            message = "it is declared, but no data file holds it"
            yield Finding(severity, "features", message, f"remove it from {INFO}", INFO, feature=name)
        undeclared = sorted(columns - numeric.keys() - set(DEFAULT_FEATURES))
        if undeclared:
            message = f"the data holds what {INFO} does not declare: {listed(undeclared)}"
            yield Finding("note", "features", message, "declare it if it is to be used")
    for name, feature in numeric.items():
        yield from _shape(data, name, feature)
    if not any(name == ACTION or name.startswith(f"{ACTION}.") for name in columns | numeric.keys()):
        message = f"there is no feature {ACTION!r}.{nearest(ACTION, columns | numeric.keys())}"
        yield Finding("error", "features", message, "name it at training: --data.action", feature=ACTION)
    if STATE not in columns | numeric.keys():
        message = f"there is no feature {STATE!r}.{nearest(STATE, columns | numeric.keys())}"
        yield Finding("note", "features", message, "name it at training: --data.state", feature=STATE)


def _shape(data: StoredDataset, name: str, feature: dict[str, Any]) -> Iterator[Finding]:
    shape = feature.get("shape")
    sizes = shape if isinstance(shape, list) and all(isinstance(n, int) for n in shape) else None
    if sizes is None:
        yield Finding("error", "features", f"its shape is {shape!r}", CORRECT_INFO, INFO, feature=name)
        return
    declared = int(np.prod(sizes)) if sizes else 1
    wrong = {e.index: e.columns[name].shape[1] for e in data.with_data if name in e.columns}
    wrong = {index: size for index, size in wrong.items() if size != declared}
    if wrong:
        found = sorted(set(wrong.values()))
        message = f"it is declared with {declared} numbers per frame and has {', '.join(map(str, found))}"
        yield Finding("error", "features", message, CORRECT_INFO, None, tuple(wrong), name)
    lacking = tuple(e.index for e in data.with_data if name not in e.columns)
    if lacking and len(lacking) < len(data.with_data):
        message = "some episodes have the feature and these do not"
        yield Finding("error", "features", message, "leave these episodes out", None, lacking, name)


def _episodes(data: StoredDataset) -> Iterator[Finding]:
    groups: list[tuple[Callable[..., bool], str, str]] = [
        (lambda e: not e.columns, "the metadata describes episodes that have no data", "remove them"),
        (
            lambda e: bool(e.columns) and not e.record,
            "the data holds episodes that the metadata does not describe",
            "describe them in meta/, or remove their data",
        ),
        (
            lambda e: (
                bool(e.columns) and isinstance(e.record.get("length"), int) and e.record["length"] != e.length
            ),
            "the metadata gives another number of frames than the data has",
            "correct `length`, or get the data again",
        ),
    ]
    for is_so, message, fix in groups:
        concerned = tuple(episode.index for episode in data.episodes if is_so(episode))
        if concerned and (data.with_data or "metadata gives" in message):
            yield Finding("error", "episodes", message, fix, episodes=concerned)
    numbers = [episode.index for episode in data.episodes]
    if numbers and numbers != list(range(len(numbers))):
        missing = tuple(sorted(set(range(max(numbers) + 1)) - set(numbers)))
        message = "the numbers of the episodes have gaps: these are missing"
        yield Finding(
            "warning", "episodes", message, "number the episodes from 0 without gaps", episodes=missing
        )
    yield from _pointers(data)


def _pointers(data: StoredDataset) -> Iterator[Finding]:
    """Compare where the metadata says the data of an episode is with where it is."""
    template = data.info.get("data_path")
    if not isinstance(template, str):
        return
    wrong = []
    for episode in data.with_data:
        record = episode.record
        chunk = episode.index // data.chunks_size
        names = {
            "episode_index": episode.index,
            "episode_chunk": chunk,
            "chunk_index": record.get("data/chunk_index", chunk),
            "file_index": record.get("data/file_index", 0),
        }
        try:
            expected = template.format(**names)
        except (KeyError, ValueError, IndexError, TypeError, AttributeError):
            message = f"data_path cannot be filled in: {template}"
            yield Finding("error", "paths", message, CORRECT_INFO, INFO)
            return
        if episode.record and expected != episode.file:
            wrong.append(episode)
    if wrong:
        message = f"the metadata leads to another data file than the one that holds them ({wrong[0].file})"
        indices = tuple(episode.index for episode in wrong)
        yield Finding(
            "warning", "paths", message, "correct data_path or the episodes' file_index", INFO, indices
        )


def _tasks(data: StoredDataset) -> Iterator[Finding]:
    if not data.tasks:
        yield Finding("error", "tasks", "no instructions can be read (meta/tasks)", "write meta/tasks")
        return
    used = {
        int(number)
        for episode in data.with_data
        if "task_index" in episode.columns
        for number in np.unique(episode.columns["task_index"])
        if np.isfinite(number)
    }
    unknown = tuple(sorted(used - data.tasks.keys()))
    if unknown:
        message = f"frames have a task_index without an instruction: {', '.join(map(str, unknown))}"
        yield Finding("error", "tasks", message, "add it to meta/tasks", feature="task_index")
    empty = [number for number, text in data.tasks.items() if not text.strip() and number in used]
    if empty:
        message = f"the instruction of task {', '.join(map(str, empty))} is empty"
        yield Finding("warning", "tasks", message, "write what the robot does")
    unused = [text for number, text in data.tasks.items() if number not in used]
    if unused and used:
        yield Finding("note", "tasks", f"no frame has the instruction {listed([repr(t) for t in unused], 3)}")


def _statistics(data: StoredDataset) -> Iterator[Finding]:
    name = "meta/stats.json"
    computed = "none for rdvla, which computes them from the values; LeRobot wants them"
    if data.statistics is None:
        if (data.root / "meta/episodes_stats.jsonl").exists():
            message = "there is no meta/stats.json, only statistics by episode"
        else:
            message = "there are no statistics (meta/stats.json, or meta/episodes_stats.jsonl in v2.1)"
        yield Finding("note", "statistics", message, computed)
        return
    for feature in (ACTION, STATE):
        entry, values = data.statistics.get(feature), data.joined(feature)
        if entry is None:
            yield Finding("note", "statistics", "it has no statistics", computed, name, feature=feature)
        elif len(values):
            yield from _compare(feature, entry, values)


def _compare(feature: str, entry: Any, values: np.ndarray) -> Iterator[Finding]:
    """Compare recorded statistics with the values; quantiles may be averages of the episodes' quantiles."""
    name = "meta/stats.json"
    fix = "compute them again; rdvla does so when it trains"
    finite = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    if not len(finite):
        return
    expected = {"min": finite.min(0), "max": finite.max(0), "mean": finite.mean(0)}
    expected |= {"q01": np.quantile(finite, 0.01, axis=0), "q99": np.quantile(finite, 0.99, axis=0)}
    spread = np.maximum(expected["max"] - expected["min"], 1e-6)
    wrong = []
    for kind, right in expected.items():
        if not isinstance(entry, dict) or kind not in entry:
            continue
        try:
            recorded = np.asarray(entry[kind], dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            recorded = np.full(1, np.nan)
        if recorded.shape != right.shape or not (np.abs(recorded - right) <= 0.05 * spread).all():
            wrong.append(kind)
    if wrong:
        message = f"{listed(wrong)} are recorded otherwise than the values give them"
        yield Finding("warning", "statistics", message, fix, name, feature=feature)
