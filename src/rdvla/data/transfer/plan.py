"""Decide what a dataset made of others holds: what all of them have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.features import (
    ACTION,
    NUMERIC_DTYPES,
    STATE,
    Camera,
    Feature,
    dimension_names,
    dimension_units,
)
from rdvla.data.formats.base import DatasetReader
from rdvla.data.selected import check_one_action
from rdvla.data.spec import RESERVED_FEATURES, DatasetSpec, check_feature
from rdvla.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class Member:
    """One dataset whose episodes are taken over.

    Attributes:
        reader: the dataset.
        columns: its features that can be read, name -> (N, size).
        notes: why others cannot.
    """

    reader: DatasetReader
    columns: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...]

    def number(self, place: int) -> int:
        """Return the number that the dataset gives to one of its episodes."""
        return int(self.reader.numbers[place])

    @classmethod
    def read(cls, reader: DatasetReader) -> Member:
        """Read every numeric feature; one that nobody needs may be damaged.

        Raises:
            DatasetError: action or state cannot be read, or an action is more than one list of numbers.
        """
        if ACTION in reader.features:
            check_one_action(reader, ACTION)
        columns: dict[str, NDArray[Any]] = {}
        notes = [f"{name!r} is left out: {reason}" for name, reason in reader.unreadable.items()]
        for name in reader.features:
            try:
                columns[name] = reader.columns([name])[name]
            except DatasetError as error:
                if name in (ACTION, STATE):
                    raise
                notes.append(f"{name!r} is left out: {error}")
        return cls(reader, columns, tuple(notes))


def positions(reader: DatasetReader, numbers: Sequence[int]) -> list[int]:
    """Return the places among a dataset's episodes of those with some numbers.

    Raises:
        ConfigError: there is no episode of a number, or it was left out.
    """
    place = {number: index for index, number in enumerate(reader.numbers.tolist())}
    for number in numbers:
        if number not in place:
            gaps = max(place) + 1 - len(place)
            why = f", {gaps} of which are left out. {' '.join(reader.notes)}" if gaps else ""
            raise ConfigError(
                f"{reader.root} has the episodes {min(place)} to {max(place)}, not {number}{why}"
            )
    return [place[number] for number in numbers]


def agree(members: Sequence[Member], *, robot_type: str | None) -> tuple[DatasetSpec, list[str]]:
    """Return the specification of a dataset with all episodes of several, and what is left out of them.

    Args:
        members: the datasets.
        robot_type: for the record, if they differ in it.

    Raises:
        DatasetError: they contradict each other; the difference is named.
    """
    first = members[0].reader
    notes = [note for member in members for note in member.notes]
    _same("frames per second", {str(m.reader.root): m.reader.fps for m in members})
    if first.fps < 1 or first.fps != int(first.fps):
        raise DatasetError(
            f"{first.root}: LeRobot v3.0 wants an integer of frames per second, got {first.fps:g}"
        )
    robots = {str(m.reader.root): m.reader.robot_type for m in members if m.reader.robot_type}
    if robot_type is None:
        _same("robot type (--robot names one for all)", robots)
    columns = [set(m.columns) - set(RESERVED_FEATURES) for m in members]
    cameras = [set(m.reader.cameras) for m in members]
    notes += _left_out("feature", columns) + _left_out("camera", cameras)
    if any(cameras) and not set.intersection(*cameras):
        listed = "; ".join(f"{m.reader.root}: {', '.join(m.reader.cameras) or 'none'}" for m in members)
        raise DatasetError(f"the datasets have no camera in common ({listed})")
    features = {n: _declare(n, members) for n in first.features if n in set.intersection(*columns)}
    features, refused = _writable(features)
    notes += refused
    sizes = {n: _size(n, members) for n in first.cameras if n in set.intersection(*cameras)}
    robot = robot_type or next(iter(robots.values()), None)
    return DatasetSpec(int(first.fps), features, sizes, robot), notes


def _writable(features: Mapping[str, Feature]) -> tuple[dict[str, Feature], list[str]]:
    """Return the features that can be written, and notes on others; action and state are not left out."""
    kept: dict[str, Feature] = {}
    notes = []
    for name, feature in features.items():
        try:
            check_feature(name, feature)
        except ConfigError as error:
            if name in (ACTION, STATE):
                raise
            notes.append(f"{name!r} is left out, as LeRobot v3.0 cannot hold it so: {error}")
        else:
            kept[name] = feature
    return kept, notes


def _left_out(what: str, held: Sequence[set[str]]) -> list[str]:
    everywhere: set[str] = set.intersection(*map(set, held))
    partial = sorted(set().union(*held) - everywhere)
    return [f"{what} {name!r} is left out, as not all datasets have it" for name in partial]


def _same(what: str, values: Mapping[str, Any]) -> None:
    if len(set(values.values())) > 1:
        listed = "; ".join(f"{root}: {value}" for root, value in values.items())
        raise DatasetError(f"the datasets differ in their {what}: {listed}")


def _declare(name: str, members: Sequence[Member]) -> Feature:
    """Return the declaration of a feature that all datasets have."""
    _same(f"size of {name!r}", {str(m.reader.root): m.columns[name].shape[1] for m in members})
    declared = [m.reader.features[name] for m in members]
    described: dict[str, Any] = {}
    for fact, found in (("names", map(dimension_names, declared)), ("units", map(dimension_units, declared))):
        roots = [str(m.reader.root) for m in members]
        given = {root: each for root, each in zip(roots, found, strict=True) if each}
        _same(f"{fact} of {name!r}", {root: ", ".join(each) for root, each in given.items()})
        described[fact] = next(iter(given.values()), None)
    size = members[0].columns[name].shape[1]
    units = {"units": described["units"]} if described["units"] else {}
    dtype = _dtype(m.columns[name].dtype for m in members)
    return {"dtype": dtype, "shape": (size,), "names": described["names"], **units}


def _dtype(dtypes: Iterable[np.dtype[Any]]) -> str:
    """Return a dtype that holds the values of all datasets; real numbers become float32 or float64."""
    common = np.result_type(*dtypes)
    if common.name in NUMERIC_DTYPES:
        return str(common.name)
    return "float32" if common.kind == "f" else "int64"


def _size(name: str, members: Sequence[Member]) -> tuple[int, int]:
    cameras: dict[str, Camera] = {str(m.reader.root): m.reader.cameras[name] for m in members}
    sizes = {root: (camera.height, camera.width) for root, camera in cameras.items()}
    _same(f"size of the images of camera {name!r}", {root: f"{h} x {w}" for root, (h, w) in sizes.items()})
    return next(iter(sizes.values()))
