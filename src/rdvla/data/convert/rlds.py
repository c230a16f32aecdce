"""Read demonstrations in the RLDS layout of TensorFlow Datasets (TFRecord files), without TensorFlow."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.convert.source import Found, LazyImages, ReadEpisode, SourceEpisode, SourceFacts
from rdvla.data.convert.tfds_features import STEPS, Leaf, read_features
from rdvla.data.convert.tfrecord import Record, Values, count_records, parse_example, read_records
from rdvla.data.decoding import DECODE_ERRORS, ImageConverter, decode_picture
from rdvla.errors import DatasetError, RDVLAError
from rdvla.files import read_object

FORMAT = "RLDS (TFRecord)"
FEATURES_FILE = "features.json"
INFO_FILE = "dataset_info.json"
EPISODES_TO_LOOK_AT = 25  # for cameras that show nothing
ACTIONS = ("action", "actions")
STATES = ("observation/state", "observation/proprio")
# RLDS's own numbers about a step; never an action or a state.
MARKS = ("is_first", "is_last", "is_terminal", "reward", "discount")


def find_rlds(path: Path) -> Path | None:
    """Return the folder below `path` that holds `features.json`; None if there is none.

    Raises:
        DatasetError: there are several, such as two versions.
    """
    folders = sorted({found.parent for found in path.rglob(FEATURES_FILE)}) if path.is_dir() else []
    if len(folders) > 1:
        names = ", ".join(str(folder) for folder in folders)
        raise DatasetError(f"{path} holds several RLDS datasets: name one of {names}")
    return folders[0] if folders else None


@dataclass(frozen=True)
class EncodedImages:
    """JPEG or PNG images of one camera in one episode; see `LazyImages`."""

    pictures: Sequence[bytes]
    where: str  # for messages: file, episode and camera

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, steps: Sequence[int]) -> NDArray[np.uint8]:
        """Decode the images of some control steps, (n, H, W, 3) RGB."""
        convert = ImageConverter()
        images = []
        for step in steps:
            try:
                images.append(convert(decode_picture(self.pictures[step])))
            except DECODE_ERRORS as error:
                raise DatasetError(f"{self.where}, step {step}: the image cannot be read: {error}") from error
        if len({image.shape for image in images}) > 1:
            raise DatasetError(f"{self.where}: images differ in size")
        return np.stack(images)


class RLDSSource:
    """One RLDS dataset; see `Source`."""

    def __init__(self, folder: Path, *, split: str | None = None) -> None:
        """Read `features.json` and look at the first episodes.

        Args:
            folder: the one with `features.json` and the TFRecord files.
            split: use the files of this split only, such as "train"; None: all there are.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        self._folder = folder
        self._leaves = read_features(folder / FEATURES_FILE)
        self._split = split
        self.files = sorted(p for p in folder.glob("*.tfrecord*") if split is None or _split_of(p) == split)
        if not self.files:
            splits = sorted({_split_of(path) for path in folder.glob("*.tfrecord*")})
            which = f" of the split {split!r} (there are {', '.join(splits)})" if split and splits else ""
            raise DatasetError(f"{folder} holds no TFRecord files{which}")

    @property
    def path(self) -> Path:
        """The folder with `features.json`."""
        return self._folder

    @property
    def split(self) -> str | None:
        """The split whose files are taken; None: all."""
        return self._split

    @property
    def inputs(self) -> list[Path]:
        """`features.json` and the TFRecord files."""
        return [self._folder / FEATURES_FILE, *self.files]

    @cached_property
    def facts(self) -> SourceFacts:
        """What features.json and the first episodes say."""
        features = {
            name: tuple(size or 0 for size in leaf.shape)
            for name, leaf in self._steps("number").items()
            if name not in MARKS and None not in leaf.shape
        }
        cameras, notes = self._cameras()
        return SourceFacts(
            format=FORMAT,
            features=features,
            cameras=cameras,
            action=tuple(name for name in ACTIONS if name in features)[:1],
            state=tuple(name for name in STATES if name in features)[:1],
            notes=(*notes, *self._missing_splits()),
        )

    @cached_property
    def _count(self) -> int:
        return sum(count_records(path) for path in self.files)

    def __len__(self) -> int:
        return self._count

    def episodes(self, *, skip: Container[int]) -> Iterator[tuple[int, ReadEpisode]]:
        """Return the episodes in the order of the files."""
        number = 0
        for path in self.files:
            for record in read_records(path):
                if number not in skip:
                    yield number, partial(self._episode, record, path=path, number=number)
                number += 1

    def _steps(self, kind: str) -> dict[str, Leaf]:
        return {
            name.removeprefix(STEPS): leaf
            for name, leaf in self._leaves.items()
            if leaf.kind == kind and name.startswith(STEPS)
        }

    def _episode(self, record: Record, *, path: Path, number: int) -> SourceEpisode:
        where = f"{path}: episode {number}"
        try:
            values = parse_example(record.checked())
        except (KeyError, ValueError, TypeError) as error:
            raise DatasetError(f"{where} does not fit {FEATURES_FILE}: {error}") from error
        features: dict[str, NDArray[Any]] = {}
        faults: dict[str, str] = {}
        for name, leaf in self._steps("number").items():
            try:
                features[name] = leaf.numbers(values[STEPS + name])
            except (KeyError, ValueError, TypeError, zlib.error) as error:
                faults[name] = f"{where}: {name!r} does not fit {FEATURES_FILE}: {error}"
        lengths = {name: len(array) for name, array in features.items()}
        images = {}
        for name in self._steps("image"):
            pictures = _strings(values.get(STEPS + name, []))
            images[name] = EncodedImages(pictures, f"{where}, camera {name!r}")
            lengths[name] = len(pictures)
        usual = Counter(lengths.values()).most_common(1)[0][0] if lengths else 0
        message = f"{where}: its features differ in their number of steps: {lengths}"
        faults |= {name: message for name, length in lengths.items() if length != usual}
        origin = {"file": path.name, "episode": number}
        return SourceEpisode(Found(features, faults), Found(images, faults), self._task(values), origin)

    def _task(self, values: Mapping[str, Values]) -> str:
        """Return the instruction: the text feature of steps, or of the episode, that is named after it."""
        texts = [name for name, leaf in self._leaves.items() if leaf.kind == "text"]
        named = [name for name in texts if "instruction" in name or "language" in name or "task" in name]
        for name in sorted(named, key=lambda each: ("instruction" not in each, not each.startswith(STEPS))):
            strings = _strings(values.get(name, []))
            if strings and strings[0].strip():
                return strings[0].decode("utf-8", errors="replace").strip()
        return ""

    def _cameras(self) -> tuple[tuple[str, ...], list[str]]:
        """Return the cameras, without those of one colour in every episode looked at, and notes on these."""
        cameras = sorted(n for n, leaf in self._steps("image").items() if leaf.shape[-1:] == (3,))
        looked_at = []
        for _, read in islice(self.episodes(skip=()), EPISODES_TO_LOOK_AT):
            with suppress(DatasetError):  # damage is reported, or left out, when the episode's turn comes
                images = read().images
                looked_at.append({name for name in cameras if _is_blank(images[name])})
        blank = [name for name in cameras if looked_at and all(name in found for found in looked_at)]
        notes = [
            f"camera {name!r} shows one colour only in the first {len(looked_at)} episodes and is left out"
            for name in blank
        ]
        return tuple(name for name in cameras if name not in blank), notes

    def _missing_splits(self) -> list[str]:
        """Compare the files with what `dataset_info.json` says of the splits."""
        try:
            splits = read_object(self._folder / INFO_FILE)["splits"]
            lengths = {str(s["name"]): sum(int(n) for n in s["shardLengths"]) for s in splits}
        except (RDVLAError, KeyError, TypeError, ValueError):
            return [f"{INFO_FILE} does not say how many episodes there should be"]
        here = {_split_of(path) for path in self.files}
        notes = [
            f"{INFO_FILE} names the split {name!r} with {count} episodes, whose files are not here"
            for name, count in lengths.items()
            if name not in here and self._split in (None, name)
        ]
        expected = sum(count for name, count in lengths.items() if name in here)
        if expected != len(self):
            notes.append(f"{INFO_FILE} promises {expected} episodes, the files hold {len(self)}")
        return notes


def _split_of(path: Path) -> str:
    """Return the split in a file name such as "bridge_dataset-train.tfrecord-00000-of-00001"."""
    return path.name.split(".tfrecord")[0].rpartition("-")[2]


def _strings(values: Values) -> list[bytes]:
    return values if isinstance(values, list) else []


def _is_blank(images: LazyImages) -> bool:
    image: NDArray[Any] = images.read([len(images) // 2])[0]
    return bool((image == image[0, 0]).all())
