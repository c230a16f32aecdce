"""What a foreign format tells the converter: its features, its cameras, and its episodes one by one."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import DatasetError

T = TypeVar("T")
Flip = Literal["none", "vertical", "rotate"]  # rotate: by 180 degrees


class LazyImages(Protocol):
    """One camera's images of an episode, decoded when asked for."""

    def __len__(self) -> int:
        """Return T, the number of images."""
        ...

    def read(self, steps: Sequence[int]) -> NDArray[np.uint8]:
        """Decode the images of some control steps, (n, H, W, 3) RGB.

        Raises:
            DatasetError: naming the file, episode and step of an image that is damaged.
        """
        ...


class Found(Mapping[str, T]):
    """What was found in an episode, by name; a fault matters only to whom asks for what has it.

    Args:
        values: what can be read.
        faults: name -> why the rest cannot; `DatasetError` with that text is raised for it.
    """

    def __init__(self, values: Mapping[str, T], faults: Mapping[str, str]) -> None:
        self._values = values
        self._faults = faults

    def __getitem__(self, name: str) -> T:
        if name in self._faults:
            raise DatasetError(self._faults[name])
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class SourceEpisode:
    """One episode of T control steps as its source holds it.

    Attributes:
        features: name -> (T, ...) numbers.
        images: camera -> its images.
        task: the instruction, empty if the source holds none.
        origin: what JSON can hold of where the episode comes from.
    """

    features: Mapping[str, NDArray[Any]]
    images: Mapping[str, LazyImages]
    task: str
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class SourceFacts:
    """What is fixed for all episodes of a source.

    Attributes:
        format: name of the format, for messages.
        features: name of each numeric feature of a control step -> its shape.
        cameras: names of the cameras, depth maps left out.
        action: the features that are the action by the format's conventions; empty: they do not tell.
        state: likewise the proprioception.
        fps: control frequency in Hz, None if the source does not say.
        robot_type: None if the source does not say.
        flip: how images must be turned to look as in published data of this format.
        notes: sentences about what was left out or differs from what the source says of itself.
    """

    format: str
    features: Mapping[str, tuple[int, ...]]
    cameras: tuple[str, ...]
    action: tuple[str, ...]
    state: tuple[str, ...]
    fps: float | None = None
    robot_type: str | None = None
    flip: Flip = "none"
    notes: tuple[str, ...] = field(default_factory=tuple)


ReadEpisode = Callable[[], SourceEpisode]


class Source(Protocol):
    """Demonstrations in a foreign format."""

    @property
    def path(self) -> Path:
        """Where they are."""
        ...

    @property
    def split(self) -> str | None:
        """The part that is taken, by its name in the source; None: all."""
        ...

    @property
    def inputs(self) -> Sequence[Path]:
        """The files that are read."""
        ...

    @property
    def facts(self) -> SourceFacts:
        """What is fixed for all episodes."""
        ...

    def __len__(self) -> int:
        """Return the number of episodes."""
        ...

    def episodes(self, *, skip: Container[int]) -> Iterator[tuple[int, ReadEpisode]]:
        """Return the episodes in their order, each as its number from 0 and a function that reads it.

        The function raises DatasetError, naming the file and the episode, if this episode is damaged.

        Args:
            skip: numbers of the episodes to leave out.

        Raises:
            DatasetError: a file is damaged in such a way that its next episode cannot be found.
        """
        ...
