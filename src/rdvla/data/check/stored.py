"""Read a LeRobot dataset of any version for checking: take what is there, and note what is not.

The readers of `rdvla.data.formats` refuse a damaged dataset. Here each file is read by itself, and damage
becomes a finding.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rdvla.data.check.columns import read_columns
from rdvla.data.check.findings import Finding
from rdvla.errors import RDVLAError
from rdvla.files import read_json

INFO = "meta/info.json"
USUAL_CHUNK = 1000
AGAIN = "get the file again, or make it again"


@dataclass
class StoredEpisode:
    """One episode: what the metadata says of it, and the numbers that were found.

    Attributes:
        index: episode_index.
        record: its line in the metadata, {} if there is none.
        columns: name -> (T, size) numbers; missing values are NaN.
        file: the data file that holds it, relative to the dataset; None: no file does.
    """

    index: int
    record: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    file: str | None = None

    @property
    def length(self) -> int:
        """Number of frames found."""
        return max((len(values) for values in self.columns.values()), default=0)


@dataclass
class StoredDataset:
    """Everything that could be read.

    Attributes:
        root: the dataset's folder.
        info: `meta/info.json`, {} if it cannot be read.
        episodes: by episode_index, ascending; of the metadata and of the data.
        tasks: task_index -> instruction.
        statistics: `meta/stats.json`; None if there is none.
        findings: what was wrong with the files.
    """

    root: Path
    info: dict[str, Any]
    episodes: list[StoredEpisode]
    tasks: dict[int, str]
    statistics: dict[str, Any] | None
    findings: list[Finding]

    @property
    def version(self) -> str:
        """Version of the format, "" if the dataset does not say."""
        return str(self.info.get("codebase_version", ""))

    @property
    def fps(self) -> float:
        """Control frequency in Hz, 0 if info.json holds none that is possible."""
        fps = self.info.get("fps")
        return float(fps) if isinstance(fps, int | float) and not isinstance(fps, bool) and fps > 0 else 0.0

    @property
    def chunks_size(self) -> int:
        """Episodes of a folder in v2; what is usual if info.json holds no such number."""
        size = self.info.get("chunks_size")
        return size if isinstance(size, int) and size > 0 else USUAL_CHUNK

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Declarations of info.json that are dictionaries."""
        declared = self.info.get("features")
        named = declared.items() if isinstance(declared, dict) else ()
        return {name: feature for name, feature in named if isinstance(feature, dict)}

    @property
    def with_data(self) -> list[StoredEpisode]:
        """The episodes whose numbers were found."""
        return [episode for episode in self.episodes if episode.columns]

    def joined(self, name: str) -> NDArray[Any]:
        """Return a feature of all episodes that have it, (N, size); (0, 0) if none has."""
        found = [episode.columns[name] for episode in self.episodes if name in episode.columns]
        sizes = {values.shape[1] for values in found}
        return np.concatenate(found) if len(sizes) == 1 else np.zeros((0, 0))


def read_stored(root: Path) -> StoredDataset:
    """Read a folder; nothing is raised for what is damaged."""
    findings: list[Finding] = []
    info = _object(root, INFO, findings, needed=True)
    records = list(_episode_records(root, findings))
    episodes = {index: StoredEpisode(index, record) for index, record in records}
    twice = tuple(sorted(i for i, count in Counter(index for index, _ in records).items() if count > 1))
    if twice:
        message = "the metadata describes episodes more than once"
        findings.append(Finding("error", "metadata", message, "keep one line for each", episodes=twice))
    for path in sorted((root / "data").rglob("*.parquet")):
        _add_data(path, root, episodes, findings)
    if not any(episode.columns for episode in episodes.values()):
        findings.append(Finding("error", "no-data", "there are no numbers below data/", AGAIN))
    statistics = _object(root, "meta/stats.json", findings) if (root / "meta/stats.json").exists() else None
    ordered = [episodes[index] for index in sorted(episodes)]
    return StoredDataset(root, info, ordered, dict(_tasks(root, findings)), statistics, findings)


def _object(root: Path, name: str, findings: list[Finding], *, needed: bool = False) -> dict[str, Any]:
    try:
        content = read_json(root / name)
    except RDVLAError as error:
        message = str(error).replace(str(root / name), name)
        findings.append(Finding("error" if needed else "warning", "metadata", message, AGAIN, name))
        return {}
    if not isinstance(content, dict):
        findings.append(Finding("error", "metadata", f"{name} holds no JSON object", AGAIN, name))
        return {}
    return content


def _lines(root: Path, name: str, findings: list[Finding]) -> Iterator[dict[str, Any]]:
    """Return the objects of a JSON-lines file, and note the lines that hold none."""
    text = (root / name).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            content = None
        if isinstance(content, dict):
            yield content
        else:
            findings.append(Finding("error", "metadata", f"line {number} is not valid JSON", AGAIN, name))


def _table(path: Path, root: Path, findings: list[Finding], *, skip: str = "\0") -> list[dict[str, Any]]:
    """Return the lines of a parquet file, without the columns that start with `skip`."""
    try:
        names = [n for n in pq.read_schema(path).names if not n.startswith(skip)]
        lines: list[dict[str, Any]] = pq.read_table(path, columns=names).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        name = path.relative_to(root).as_posix()
        message = f"it cannot be read as parquet: {error}"
        findings.append(Finding("error", "damaged-file", message, AGAIN, name))
        return []
    return lines


def _episode_records(root: Path, findings: list[Finding]) -> Iterator[tuple[int, dict[str, Any]]]:
    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    if files:
        lines = [line for path in files for line in _table(path, root, findings, skip="stats/")]
    elif (root / "meta/episodes.jsonl").exists():
        lines = list(_lines(root, "meta/episodes.jsonl", findings))
    else:
        message = "nothing describes the episodes (meta/episodes.jsonl, or meta/episodes/ in v3.0)"
        findings.append(Finding("error", "metadata", message, AGAIN))
        return
    for line in lines:
        if isinstance(index := line.get("episode_index"), int):
            yield index, line


def _tasks(root: Path, findings: list[Finding]) -> Iterator[tuple[int, str]]:
    lines: list[dict[str, Any]] = []
    if (root / "meta/tasks.parquet").exists():
        lines = _table(root / "meta/tasks.parquet", root, findings)
    elif (root / "meta/tasks.jsonl").exists():
        lines = list(_lines(root, "meta/tasks.jsonl", findings))
    for line in lines:
        text = line.get("task", line.get("__index_level_0__"))
        if isinstance(line.get("task_index"), int) and isinstance(text, str):
            yield line["task_index"], text


def _add_data(path: Path, root: Path, episodes: dict[int, StoredEpisode], findings: list[Finding]) -> None:
    name = path.relative_to(root).as_posix()
    try:
        columns, problems = read_columns(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        message = f"it cannot be read as parquet: {error}"
        findings.append(Finding("error", "damaged-file", message, AGAIN, name))
        return
    findings += [Finding("error", "values", text, "", name, feature=column) for column, text in problems]
    if not any(len(values) for values in columns.values()):
        findings.append(Finding("warning", "empty-file", "it holds no frames", AGAIN, name))
        return
    for index, lines in _lines_of_episodes(columns, path):
        episode = episodes.setdefault(index, StoredEpisode(index))
        if episode.file is not None:
            message = f"another file ({episode.file}) has frames of the episode too"
            findings.append(Finding("warning", "metadata", message, "", name, (index,)))
            continue
        episode.file = name
        episode.columns = {column: values[lines] for column, values in columns.items()}


def _lines_of_episodes(
    columns: Mapping[str, NDArray[Any]], path: Path
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Return each episode of a file and its lines; the file's name says which, if no column does."""
    if "episode_index" in columns and np.isfinite(columns["episode_index"]).all():
        numbers = columns["episode_index"][:, 0].astype(np.int64)
        for index in np.unique(numbers).tolist():
            yield index, np.flatnonzero(numbers == index)
    elif path.stem.rpartition("_")[2].isdigit():
        length = max((len(values) for values in columns.values()), default=0)
        yield int(path.stem.rpartition("_")[2]), np.arange(length)
