"""Write the demonstrations of a source as a dataset in LeRobot's format v3.0."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.convert.choose import Choices, Plan, decide
from rdvla.data.convert.source import Flip, Source, SourceEpisode
from rdvla.data.episode import Episode
from rdvla.data.features import ACTION, STATE
from rdvla.data.file_hashes import hash_files
from rdvla.data.formats.lerobot_v3.writer import DatasetWriter
from rdvla.data.made_from import finish, finished_facts
from rdvla.errors import DatasetError
from rdvla.files import sole_user

# What a finished conversion says of itself.
SKIP_DAMAGED = "skip_damaged"
LEFT_OUT = "left_out"


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        root: the new dataset.
        plan: how it was made.
        episodes: number of its episodes.
        frames: number of its frames.
        tasks: its instructions.
        left_out: reasons why episodes were left out, one for each.
        notes: what the source says, or does not say, of itself.
        is_new: False if an earlier call had written it already.
    """

    root: Path
    plan: Plan
    episodes: int
    frames: int
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    is_new: bool = True


def convert(
    source: Source,
    output: Path,
    *,
    choices: Choices,
    skip_damaged: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Conversion:
    """Convert all episodes; a conversion that was interrupted goes on where it stopped.

    If the output holds this conversion of the unchanged source already, nothing is written.

    Args:
        source: the demonstrations.
        output: folder of the new dataset; it appears at the end, whole.
        choices: what the user says.
        skip_damaged: leave out episodes that cannot be read or written, instead of stopping.
        progress: called with the number of episodes done and their total.

    Raises:
        ConfigError: the choices do not fit the source.
        DatasetError: naming the file and episode that is damaged, or the output holds something else.
    """
    plan = decide(source.facts, choices)
    content = dict(zip(map(str, source.inputs), hash_files(source.inputs), strict=True))
    made_from = json.dumps([str(source.path.resolve()), content, source.split, asdict(plan)])
    with sole_user(output):
        facts = finished_facts(output, made_from)
        if facts is not None and facts.get(SKIP_DAMAGED) == skip_damaged:
            left_out = tuple(map(str, facts.get(LEFT_OUT, ())))
            return Conversion(output, plan, *_count(output), left_out, source.facts.notes, is_new=False)
        work = _Work(source, output, plan, made_from)
        left = work.write(skip_damaged=skip_damaged, progress=progress)
        return work.finish(left, skip_damaged=skip_damaged)


class _Work:
    """One conversion while it runs; the writer starts with the first episode, which has the sizes."""

    def __init__(self, source: Source, output: Path, plan: Plan, made_from: str) -> None:
        self._source = source
        self._output = output
        self._plan = plan
        features, sizes = self._declared()
        self._writer = DatasetWriter.create(
            output,
            fps=plan.fps,
            features=features,
            cameras=tuple(plan.cameras.values()),
            image_size=sizes,
            robot_type=plan.robot_type,
            made_from=made_from,
        )

    def write(self, *, skip_damaged: bool, progress: Callable[[int, int], None]) -> list[str]:
        done = self._writer.finished()
        left_out: list[str] = []
        total = len(self._source)
        progress(len(done), total)
        for count, (number, read) in enumerate(self._source.episodes(skip=done), start=len(done) + 1):
            try:
                reason = self._add(number, read())
            except DatasetError as error:
                if not skip_damaged:
                    raise DatasetError(f"{error} (--skip-damaged leaves such episodes out)") from error
                reason = str(error)
            left_out += [reason] if reason else []
            progress(count, total)
        return left_out

    def finish(self, left_out: list[str], *, skip_damaged: bool) -> Conversion:
        if not self._writer.finished():
            self._writer.discard()
            reasons = "; ".join(dict.fromkeys(left_out)) or "the source holds none"
            raise DatasetError(f"no episode is left to write: {reasons}")
        finish(self._writer, {SKIP_DAMAGED: skip_damaged, LEFT_OUT: left_out})
        written = _count(self._output)
        return Conversion(self._output, self._plan, *written, tuple(left_out), self._source.facts.notes)

    def _add(self, number: int, episode: SourceEpisode) -> str | None:
        """Stage one episode; return why it was left out, or None."""
        task = episode.task or self._plan.task
        if not task:
            return "it has no instruction (--task gives one)"
        images = {
            new: turned(episode.images[old].read(range(len(episode.images[old]))), self._plan.flip)
            for old, new in self._plan.cameras.items()
        }
        features = {ACTION: _joined(episode, self._plan.action)}
        if self._plan.state:
            features[STATE] = _joined(episode, self._plan.state)
        origin = {"converted_from": self._source.path.name, **episode.origin}
        try:
            self._writer.add_episode(Episode(features, images, task, source=origin), number=number)
        except DatasetError as error:
            raise DatasetError(
                f"{self._source.path}: episode {number} ({dict(episode.origin)}): {error}"
            ) from error
        return None

    def _declared(self) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[int, int]]]:
        """Return the features, and the sizes of images, of the first episode that can be read."""
        damage: DatasetError | None = None
        for _, read in self._source.episodes(skip=()):
            try:
                first = read()
                sizes = {new: _size(first, old) for old, new in self._plan.cameras.items()}
                return _declarations(first, self._plan), sizes
            except DatasetError as error:
                damage = damage or error
        raise damage or DatasetError(f"{self._source.path} holds no episodes")


def turned(images: NDArray[np.uint8], flip: Flip) -> NDArray[np.uint8]:
    """Turn images (T, H, W, 3) upside down ("vertical"), by 180 degrees ("rotate"), or not at all."""
    if flip == "none":
        return images
    return np.ascontiguousarray(images[:, ::-1] if flip == "vertical" else images[:, ::-1, ::-1])


def _joined(episode: SourceEpisode, names: Sequence[str]) -> NDArray[np.float32]:
    """Return features (T, ...) behind each other, (T, size) float32."""
    columns = [episode.features[name] for name in names]
    return np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1).astype(np.float32)


def _declarations(first: SourceEpisode, plan: Plan) -> dict[str, dict[str, Any]]:
    chosen = {ACTION: plan.action} | ({STATE: plan.state} if plan.state else {})
    declared = {}
    for feature, names in chosen.items():
        size = _joined(first, names).shape[1]
        declared[feature] = {"dtype": "float32", "shape": (size,), "names": _names(first, names)}
    return declared


def _names(first: SourceEpisode, names: Sequence[str]) -> list[str]:
    """Name each number after its feature, so the order stays on record."""
    found = []
    for name in names:
        short = name.rpartition("/")[2]
        size = int(np.prod(first.features[name].shape[1:]))
        found += [f"{short}_{i}" for i in range(size)] if size > 1 else [short]
    return found


def _size(episode: SourceEpisode, camera: str) -> tuple[int, int]:
    height, width = episode.images[camera].read([0]).shape[1:3]
    return int(height), int(width)


def _count(root: Path) -> tuple[int, int, tuple[str, ...]]:
    from rdvla.data.formats.registry import open_reader

    reader = open_reader(root)
    return len(reader.lengths), int(reader.lengths.sum()), tuple(reader.tasks)
