"""Write episodes of LeRobot datasets as a new dataset; video streams are copied wherever that is possible."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.clips import Clip
from rdvla.data.decoding import ImageConverter
from rdvla.data.episode import Episode
from rdvla.data.features import IMAGE_IS_NEW
from rdvla.data.formats.base import CameraReader
from rdvla.data.formats.lerobot.reader import LeRobotReader
from rdvla.data.formats.lerobot_v3.writer import DatasetWriter
from rdvla.data.formats.registry import open_reader
from rdvla.data.made_from import finish, finished_facts
from rdvla.data.spec import DatasetSpec
from rdvla.data.transfer.plan import Member, agree, positions
from rdvla.errors import DatasetError
from rdvla.files import sole_user

ShowProgress = Callable[[int, int], None]  # episodes done, and their total


@dataclass(frozen=True)
class Transfer:
    """What was written.

    Attributes:
        root: the new dataset.
        episodes: number of its episodes.
        frames: number of its frames.
        copied: videos whose stream was copied, one per episode and camera; not those before an interruption.
        encoded: videos that had to be encoded again, counted likewise.
        notes: what was left out, and why.
        is_new: False if an earlier call had written it already.
    """

    root: Path
    episodes: int
    frames: int
    copied: int
    encoded: int
    notes: tuple[str, ...]
    is_new: bool = True


def transfer(
    sources: Sequence[tuple[Path, Sequence[int] | None]],
    output: Path,
    *,
    robot_type: str | None = None,
    progress: ShowProgress = lambda _done, _total: None,
) -> Transfer:
    """Write episodes of one or several datasets as a new dataset; one that was interrupted goes on.

    If the output holds these episodes of the unchanged datasets already, nothing is written.

    Args:
        sources: each dataset's folder and the episodes to take, by their number; None: all.
        output: folder of the new dataset; it appears at the end, whole.
        robot_type: for the record, if the datasets differ in it.
        progress: called with the number of episodes done and their total.

    Raises:
        DatasetError: a dataset cannot be read, they contradict each other, the instruction changes within
            an episode, or the output holds something else.
        ConfigError: an episode does not exist, or was left out as it cannot be read.
    """
    members = [Member.read(open_reader(root).with_cameras(None)) for root, _ in sources]
    spec, notes = agree(members, robot_type=robot_type)
    notes = [note for member in members for note in member.reader.notes] + notes
    wanted = [
        (member, episode)
        for member, (_, chosen) in zip(members, sources, strict=True)
        for episode in _chosen(member, chosen)
    ]
    takers = {id(member): _Taker(member, spec) for member in members}
    for member, episode in wanted:
        takers[id(member)].check_task(episode)
    made_from = _made_from(members, wanted, spec)
    frames = sum(int(member.reader.lengths[episode]) for member, episode in wanted)
    with sole_user(output):
        if finished_facts(output, made_from) is not None:
            return Transfer(output, len(wanted), frames, 0, 0, tuple(notes), is_new=False)
        writer = DatasetWriter.create(
            output,
            fps=spec.fps,
            features=spec.features,
            cameras=tuple(spec.cameras),
            image_size=spec.cameras,
            robot_type=spec.robot_type,
            made_from=made_from,
        )
        copied = encoded = 0
        done = writer.finished()
        for number, (member, episode) in enumerate(wanted):
            if number not in done:
                taker = takers[id(member)]
                images = taker.images(episode)
                writer.add_episode(taker.episode(episode, images), number=number)
                copied += sum(isinstance(each, Clip) for each in images.values())
                encoded += sum(not isinstance(each, Clip) for each in images.values())
            progress(number + 1, len(wanted))
        finish(writer, {})
    return Transfer(output, len(wanted), frames, copied, encoded, tuple(notes))


def _made_from(members: Sequence[Member], wanted: Sequence[tuple[Member, int]], spec: DatasetSpec) -> str:
    """Return what the episodes are, the content of their datasets included."""
    roots = {str(member.reader.root.resolve()): member.reader.fingerprint() for member in members}
    episodes = [(str(member.reader.root.resolve()), member.number(place)) for member, place in wanted]
    return json.dumps([roots, episodes, spec.robot_type])


class _Taker:
    """Takes episodes out of one dataset."""

    def __init__(self, member: Member, spec: DatasetSpec) -> None:
        self._member = member
        self._reader = member.reader
        self._columns = member.columns
        self._spec = spec
        self._stop = np.cumsum(member.reader.lengths)
        self._tasks = member.reader.task_of_frames()
        self._cameras: dict[str, CameraReader] = {}

    def episode(self, number: int, images: dict[str, Any]) -> Episode:
        frames = self._frames(number)
        features = {
            name: self._columns[name][frames].astype(feature["dtype"])
            for name, feature in self._spec.features.items()
        }
        origin = dict(self._reader.sources[number]) | {"dataset": self._reader.root.name}
        origin["episode"] = self._member.number(number)
        task = self._reader.tasks[int(self._tasks[frames[0]])]
        return Episode(features, images, task, image_index=self._image_index(frames), source=origin)

    def check_task(self, number: int) -> None:
        """Refuse an episode whose instruction changes: one that is written has one."""
        frames = self._frames(number)
        if changes := np.flatnonzero(np.diff(self._tasks[frames])).tolist():
            before, after = (self._reader.tasks[int(self._tasks[frames[changes[0] + i]])] for i in (0, 1))
            raise DatasetError(
                f"{self._reader.root}: the instruction of episode {self._member.number(number)} changes at "
                f"frame {changes[0] + 1} from {before!r} to {after!r}, and one that is written has one "
                "instruction. Take the other episodes (rdvla data split --episodes), or train on the dataset "
                "as it is: rdvla train reads each frame's instruction"
            )

    def images(self, number: int) -> dict[str, NDArray[np.uint8] | Clip]:
        """Return each camera's images of an episode: a clip if its stream can be copied, else decoded."""
        frames = self._frames(number)
        found: dict[str, NDArray[np.uint8] | Clip] = {}
        for name in self._spec.cameras:
            clip = self._reader.clip(name, number) if isinstance(self._reader, LeRobotReader) else None
            if clip is not None and clip.can_be_copied():
                found[name] = clip
            else:
                is_first = np.diff(self._image_index(frames), prepend=-1) > 0
                found[name] = self._camera(name).read(frames[is_first])
        return found

    def _frames(self, number: int) -> NDArray[np.int64]:
        stop = int(self._stop[number])
        return np.arange(stop - int(self._reader.lengths[number]), stop)

    def _image_index(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        if IMAGE_IS_NEW not in self._columns:
            return np.arange(len(frames), dtype=np.int64)
        is_new = self._columns[IMAGE_IS_NEW][frames, 0].astype(bool)
        is_new[0] = True
        return (np.cumsum(is_new) - 1).astype(np.int64)

    def _camera(self, name: str) -> CameraReader:
        if name not in self._cameras:
            self._cameras[name] = self._reader.open_camera(name, ImageConverter())
        return self._cameras[name]


def _chosen(member: Member, episodes: Sequence[int] | None) -> Sequence[int]:
    """Return the places of episodes that are given by their numbers."""
    return range(len(member.reader.lengths)) if episodes is None else positions(member.reader, episodes)
