"""Which features of a dataset make up the action, the proprioception and the training signals.

Datasets name and divide their features differently: "actions" and "state", or "action.arm" and
"action.gripper". Everything above reads `ACTION` and `STATE`, which are these joined in a fixed order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdvla.data.features import (
    ACTION,
    ENVIRONMENT_STATE,
    IMAGE_IS_NEW,
    KEYPOINTS,
    STATE,
    Columns,
    Feature,
    dimension_names,
    dimension_units,
)
from rdvla.data.formats.base import DatasetReader
from rdvla.errors import DatasetError, nearest

TRAINING_SIGNALS = (IMAGE_IS_NEW, ENVIRONMENT_STATE, KEYPOINTS)
# What others call the action and the proprioception; used for suggestions only, never for guesses.
LIKELY = {
    ACTION: re.compile(r"(.*\.)?actions?([._].+)?"),
    STATE: re.compile(r"(.*\.)?(states?|qpos|proprio\w*|joint\w*|robot_state\w*)([._].+)?"),
}
OPTIONS = {ACTION: "data.action", STATE: "data.state"}


@dataclass(frozen=True)
class SelectedFeatures:
    """The features that are read from one dataset.

    Attributes:
        reader: the dataset.
        action: names of the features that make up the action, in their order.
        state: names of the features that make up the proprioception; empty: it has none.
    """

    reader: DatasetReader
    action: tuple[str, ...]
    state: tuple[str, ...]

    @classmethod
    def choose(
        cls, reader: DatasetReader, *, action: Sequence[str], state: Sequence[str]
    ) -> SelectedFeatures:
        """Choose the named features; empty: `action` and, if there is one, `observation.state`.

        Raises:
            DatasetError: the dataset lacks one of them; the message suggests those it may have instead.
        """
        own = reader.features
        for name in action or (ACTION,):
            if name not in own:
                raise DatasetError(_missing(reader, ACTION, name, with_state=not state))
        for name in state:
            if name not in own:
                raise DatasetError(_missing(reader, STATE, name, with_state=False))
        for name in action or (ACTION,):
            check_one_action(reader, name)
        return cls(reader, tuple(action) or (ACTION,), tuple(state) or ((STATE,) if STATE in own else ()))

    @property
    def features(self) -> dict[str, Feature]:
        """Declarations of everything that can be read, `ACTION` and `STATE` included."""
        own = self.reader.features
        chosen = {ACTION: self.action, STATE: self.state}
        return dict(own) | {name: _joined([own[n] for n in parts]) for name, parts in chosen.items() if parts}

    @property
    def needed(self) -> list[str]:
        """What is read when the dataset is opened; `columns` reads others on demand."""
        features = self.features
        return [name for name in (ACTION, STATE, *TRAINING_SIGNALS) if name in features]

    @property
    def notes(self) -> list[str]:
        """What the user should know about the choice."""
        likely = _likely(self.reader, STATE)
        if self.state or not likely:
            return []
        return [
            f"{self.reader.root} has no {STATE!r}, so policies get no proprioception; if that is "
            f"{', '.join(map(repr, likely))}, give {_option(STATE, likely)}"
        ]

    def columns(self, names: Sequence[str]) -> Columns:
        """Read features of `features`, name -> (N, size); every image is new if the dataset does not say."""
        filled: Columns = {}
        if IMAGE_IS_NEW in names and IMAGE_IS_NEW not in self.reader.features:
            filled[IMAGE_IS_NEW] = np.ones((int(self.reader.lengths.sum()), 1), dtype=bool)
        own = {name: self._own(name) for name in names if name not in filled}
        read = self.reader.columns(list(dict.fromkeys(part for parts in own.values() for part in parts)))
        return filled | {
            name: read[parts[0]] if len(parts) == 1 else np.concatenate([read[p] for p in parts], axis=1)
            for name, parts in own.items()
        }

    def _own(self, name: str) -> tuple[str, ...]:
        return {ACTION: self.action, STATE: self.state}.get(name, (name,))


def check_one_action(reader: DatasetReader, name: str) -> None:
    """Refuse an action of several dimensions: nobody can tell arms from future steps by the shape.

    Raises:
        DatasetError: naming the shape, and what to do.
    """
    shape = reader.features[name].get("recorded_shape", ())
    if sum(size > 1 for size in shape) > 1:
        raise DatasetError(
            f"{reader.root}: {name!r} has the shape {list(shape)}, and rdvla reads one action a frame, a "
            "list of numbers. Write the dataset anew, with the numbers of one step in one list (no chunks)"
        )


def _joined(features: Sequence[Feature]) -> Feature:
    if len(features) == 1:
        return features[0]
    names = [dimension_names(feature) for feature in features]
    units = [dimension_units(feature) for feature in features]
    joined: dict[str, Any] = {
        "dtype": np.result_type(*(np.dtype(feature["dtype"]) for feature in features)).name,
        "shape": [sum(feature["shape"][0] if feature["shape"] else 1 for feature in features)],
        "names": [n for own in names for n in own or ()] if all(names) else None,
    }
    return joined | ({"units": [u for own in units for u in own or ()]} if all(units) else {})


def _likely(reader: DatasetReader, role: str) -> list[str]:
    return [name for name in reader.features if LIKELY[role].fullmatch(name)]


def _option(role: str, names: Sequence[str]) -> str:
    return f"--{OPTIONS[role]} '[{', '.join(names)}]'"


def _missing(reader: DatasetReader, role: str, name: str, *, with_state: bool) -> str:
    """Return a sentence about a feature that is missing, and the options that may be meant."""
    reason = reader.unreadable.get(name)
    if reason:
        return f"{reader.root}: {name!r} cannot be read: {reason}"
    options = [_option(role, likely)] if (likely := _likely(reader, role)) else []
    if with_state and STATE not in reader.features and (states := _likely(reader, STATE)):
        options.append(_option(STATE, states))
    advice = f" If these are meant: {' '.join(options)}." if options else nearest(name, reader.features)
    has = ", ".join(reader.features) or "no numeric feature"
    return f"{reader.root} has no feature {name!r} (it has {has}).{advice}"


def common(selected: Sequence[SelectedFeatures]) -> tuple[list[str], list[str]]:
    """Return the features to read when datasets are opened together, and notes on those left out.

    A training signal that one of them lacks, or has in another size, is left out; but a dataset that does not
    say which images are new has a new one in every frame.
    """
    features = [own.features for own in selected]
    names, notes = list(selected[0].needed), []
    for name in TRAINING_SIGNALS:
        having = [own for own in features if name in own]
        same = len({tuple(own[name]["shape"]) for own in features if name in own}) == 1
        if having and same and name == IMAGE_IS_NEW:
            names = list(dict.fromkeys([*names, name]))
        elif having and (len(having) < len(selected) or not same):
            names = [n for n in names if n != name]
            notes.append(f"{name!r} is left out: not all of the datasets have it in the same size")
    return names, notes


def declared_facts(feature: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Return what datasets that are read together must agree in; facts that are not declared are left out."""
    if feature is None:
        return {f"the shape of {name!r}": "missing"}
    facts: dict[str, Any] = {f"the shape of {name!r}": list(feature["shape"])}
    if (names := dimension_names(feature)) is not None:
        facts[f"the order of the values of {name!r}"] = names
    if (units := dimension_units(feature)) is not None:
        facts[f"the units of {name!r}"] = units
    return facts
