"""Write a dataset in LeRobot's format v3.0: stage episodes singly, then assemble all of them at once.

A staged episode is a small folder that appears by a rename, whole or not at all. A generation killed at any
moment therefore resumes from the staged episodes, and several processes may stage episodes at once. The
dataset itself also appears by a rename, once all of it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdvla.data.episode import Episode, check_episode
from rdvla.data.features import Feature
from rdvla.data.formats.lerobot_v3.assemble import assemble
from rdvla.data.formats.lerobot_v3.finished import (
    are_added,
    is_finished,
    mark_added,
    mark_finished,
    place,
    remove_staging,
    staging_of,
)
from rdvla.data.formats.lerobot_v3.metadata import DatasetMetadata
from rdvla.data.formats.lerobot_v3.parcels import pack, unpack
from rdvla.data.formats.lerobot_v3.recorder import EpisodeRecorder
from rdvla.data.formats.lerobot_v3.staging import StagedEpisode, write_staged_episode
from rdvla.data.spec import DatasetSpec, ImageSize, camera_sizes
from rdvla.errors import ConfigError, DatasetError
from rdvla.files import new_folder, read_json, sole_user, write_json
from rdvla.leftovers import remove, remove_dead, temporary_name

SPEC_FILE = "spec.json"
EPISODES_FOLDER = "episodes"


@dataclass(frozen=True)
class DatasetWriter:
    """Writes one dataset. It holds paths and the specification only, so it can be sent to worker processes.

    Example::

        writer = DatasetWriter.create(
            "demos", fps=80, features=features, cameras=("front",), image_size=(480, 640)
        )
        for number, seed in enumerate(seeds):
            if number not in writer.finished():  # resumes an interrupted generation
                writer.add_episode(demonstrate(seed), number=number)
        writer.finalize()
    """

    root: Path
    spec: DatasetSpec
    base_episodes: int  # episodes that the dataset holds already: 0 unless appending
    made_from: str = ""
    staging_folder: Path | None = None  # if not next to `root`

    @classmethod
    def create(
        cls,
        root: Path | str,
        *,
        fps: int,
        features: Mapping[str, Feature],
        cameras: Sequence[str],
        image_size: ImageSize | Mapping[str, ImageSize],
        robot_type: str | None = None,
        rendering: str | None = None,
        crf: int | None = None,
        made_from: str = "",
    ) -> DatasetWriter:
        """Start a new dataset, or continue an interrupted one.

        Args:
            root: folder of the dataset; it must not exist yet.
            fps: control frequency in Hz.
            features: numeric features, name -> {"dtype": "float32", "shape": (4,), "names": [...] or None};
                "units": [...] may be added. A robot's are `action` and `observation.state`. The writer itself
                adds the images, `camera_is_new` and the standard columns.
            cameras: camera names such as "front".
            image_size: side of a square image, or (height, width), in pixels; camera -> size if they differ.
            robot_type: free text for the dataset's record.
            rendering: how a simulator drew the images, for the record.
            crf: x264's constant rate factor, from 0 (lossless) to 51; None: 6 for images of up to 256 pixels
                (their shorter side), 18 for larger ones.
            made_from: sources and settings of the episodes; an interrupted dataset that was made from others
                is not continued.

        Raises:
            DatasetError: the dataset exists, or an interrupted one has another specification.
            ConfigError: a feature, camera or size is impossible.
        """
        root = Path(root)
        sizes = camera_sizes(cameras, image_size)
        spec = DatasetSpec(fps, dict(features), sizes, robot_type, rendering, crf)
        if root.exists():
            cls.clear_finished(root)
            raise DatasetError(
                f"{root} exists already: choose another folder, delete it, or add to it (append)"
            )
        writer = cls(root, spec, 0, made_from)
        writer._open_staging()
        return writer

    @classmethod
    def append(cls, root: Path | str) -> DatasetWriter:
        """Add episodes to a finished dataset that was written by this class (same features and cameras).

        Raises:
            DatasetError: the dataset is missing, damaged, or has features that cannot be written here; or
                episodes are staged that were meant to follow others.
            RDVLAError: another process is adding its episodes at this moment.
        """
        root = Path(root)
        if not root.is_dir():
            raise DatasetError(f"{root} does not exist: start a dataset with DatasetWriter.create")
        with sole_user(root):
            existing = DatasetMetadata.read(root)
            writer = cls(root, existing.spec(), existing.total_episodes)
            writer._open_staging()
        return writer

    @property
    def staging(self) -> Path:
        """Folder of the episodes that wait for `finalize`."""
        return self.staging_folder or staging_of(self.root)

    def relocated(self, staging: Path) -> DatasetWriter:
        """Return a copy that stages episodes in another folder, which `pack` sends here."""
        return replace(self, staging_folder=staging)

    def add_episode(self, episode: Episode, *, number: int | None = None) -> int:
        """Check one episode and stage it for the dataset.

        Args:
            episode: the demonstration.
            number: its rank in the dataset, 0 or more; numbers may have gaps. Give it if several processes
                add episodes, so the result does not depend on their speed. None: the next one.

        Returns:
            The number.

        Raises:
            DatasetError: the episode does not fit the dataset (nothing is written), or the number is taken.
        """
        checked = check_episode(episode, self.spec)
        with self._new_folder(number) as (temporary, target):
            write_staged_episode(temporary, checked, self.spec)
            place(temporary, target)
        return int(target.name)

    @contextmanager
    def record(
        self, task: str, *, number: int | None = None, source: Mapping[str, Any] | None = None
    ) -> Iterator[EpisodeRecorder]:
        """Record one episode step by step; its images go to the disk at once.

        The episode is staged when the `with` block ends, unless it raised or `discard` was called.

        Example::

            with writer.record("put the cup on the plate") as episode:
                while not done():
                    episode.add({"observation.state": joints, "action": command}, images={"top": image})

        Args:
            task: the natural-language instruction.
            number: its rank in the dataset, as in `add_episode`.
            source: anything JSON can hold that says where the episode comes from.

        Raises:
            DatasetError: a step does not fit the dataset, there is none, or the number is taken.
        """
        with self._new_folder(number) as (temporary, target):
            recorder = EpisodeRecorder(temporary, self.spec, task=task, source=source or {})
            try:
                yield recorder
                is_kept = recorder.finish()
            finally:
                recorder.close()
            if is_kept:
                place(temporary, target)

    def finished(self) -> dict[int, dict[str, Any]]:
        """Return the staged episodes, number -> `source`.

        Raises:
            DatasetError: naming a staged episode that is damaged.
        """
        return {number: StagedEpisode.read(self._folder(number)).source for number in self._numbers()}

    def holds(self, number: int) -> bool:
        """Whether the episode with this number is staged."""
        return self._folder(number).is_dir()

    def pack(self, number: int, parcel: Path) -> None:
        """Turn a staged episode into one file, for another writer of the same dataset."""
        pack(self._folder(number), parcel)
        remove(self._folder(number))

    def unpack(self, parcel: Path, *, number: int) -> None:
        """Stage an episode that another writer packed, and remove its file; an episode that is there stays.

        Raises:
            DatasetError: the file is damaged (named).
        """
        if not self.holds(number):
            with self._new_folder(number) as (temporary, target):
                unpack(parcel, temporary)
                place(temporary, target)
        parcel.unlink()

    def finalize(
        self, numbers: Sequence[int] | None = None, *, records: Mapping[str, Any] | None = None
    ) -> Path:
        """Assemble the dataset from the staged episodes, by number, and clear the staging folder.

        Args:
            numbers: use these episodes only, e.g. the first 50 successes of each task. None: all.
            records: JSON files that a new dataset's folder gets as well: name -> content.

        Returns:
            The dataset's folder.

        Raises:
            DatasetError: there are no episodes, a number is unknown, or a staged episode is damaged (it is
                named; delete it and continue).
            RDVLAError: another process finishes it.
        """
        with sole_user(self.root):
            folders = self._chosen(numbers)
            if self.base_episodes:
                existing = DatasetMetadata.read(self.root)
                mark_added(self.staging, total=existing.total_episodes + len(folders))
                assemble(self.root, folders, self.spec, existing=existing)
            else:
                with new_folder(self.root) as building:
                    assemble(building, folders, self.spec, existing=None)
                    for name, content in (records or {}).items():
                        write_json(building / name, content)
                    mark_finished(self.staging, building)
            self.discard()
        return self.root

    def discard(self) -> None:
        """Delete the staged episodes."""
        remove_staging(self.staging)

    @staticmethod
    def clear_finished(root: Path) -> None:
        """Delete the staged episodes of a dataset if they are in it: a kill kept `finalize` from that."""
        if is_finished(staging_of(root), root):
            remove_staging(staging_of(root))

    @contextmanager
    def _new_folder(self, number: int | None) -> Iterator[tuple[Path, Path]]:
        """Yield an empty folder for an episode, and the place where it is to go."""
        rank = number if number is not None else max(self._numbers(), default=-1) + 1
        target = self._folder(rank)
        if rank < 0 or target.exists():
            raise DatasetError(f"episode number {rank} is {'negative' if rank < 0 else 'already there'}")
        temporary = temporary_name(target)
        temporary.mkdir(parents=True)
        try:
            yield temporary, target
        finally:
            remove(temporary)

    def _chosen(self, numbers: Sequence[int] | None) -> list[Path]:
        """Return the folders of staged episodes."""
        staged = self._numbers()
        chosen = sorted(set(numbers)) if numbers is not None else staged
        unknown = sorted(set(chosen) - set(staged))
        if unknown or not chosen:
            what = f"no episode has the number {unknown[0]}" if unknown else "there is no episode to write"
            raise DatasetError(f"{self.root}: {what} ({len(staged)} are staged in {self.staging})")
        return [self._folder(number) for number in chosen]

    def _folder(self, number: int) -> Path:
        return self.staging / EPISODES_FOLDER / f"{number:06d}"

    def _numbers(self) -> list[int]:
        folder = self.staging / EPISODES_FOLDER  # is missing once another process has finished
        return sorted(int(f.name) for f in folder.iterdir() if f.name.isdigit()) if folder.is_dir() else []

    def _open_staging(self) -> None:
        record = self.spec.as_json() | {"base_episodes": self.base_episodes, "made_from": self.made_from}
        path = self.staging / SPEC_FILE
        if path.exists():
            different, base_episodes = self._differences(path)
            if not different and base_episodes == self.base_episodes:
                remove_dead(self.staging / EPISODES_FOLDER, older=True)
                return
            if base_episodes >= self.base_episodes:
                different += ["number of episodes"] if base_episodes > self.base_episodes else []
                raise DatasetError(
                    f"{self.staging} holds an interrupted dataset with another {', '.join(different)}: "
                    "use the same settings to go on, or delete that folder to start again"
                )
            if not are_added(self.staging, total=self.base_episodes):
                raise DatasetError(
                    f"{self.staging} holds episodes that were to follow {base_episodes} others, and "
                    f"{self.root} has {self.base_episodes} by now: if they are among them, delete that "
                    f"folder; if not, set base_episodes to {self.base_episodes} in {path} to add them"
                )
            self.discard()
        (self.staging / EPISODES_FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(path, record)

    def _differences(self, path: Path) -> tuple[list[str], int]:
        """Return what the specification of an interrupted dataset differs in, and its `base_episodes`."""
        try:
            found = read_json(path)
            different = self.spec.differences(DatasetSpec.from_json(found))
            different += ["source, or other options"] if found.get("made_from", "") != self.made_from else []
            return different, int(found.get("base_episodes", 0))
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise DatasetError(
                f"{path} is damaged: delete {self.staging} to start again ({error})"
            ) from error
