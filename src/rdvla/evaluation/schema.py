"""Checks JSON against the dataclasses that it is meant to fill, naming the entry that does not fit."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from rdvla.evaluation.records import Episode, ResultsError

OLD_VIDEO_STRIDE = 4  # of videos recorded under schema 1, which does not name it

T = typing.TypeVar("T")


def episode_from_dict(values: Any, place: str) -> Episode:
    """Check and build one episode of either schema; raises `ResultsError` naming `place`."""
    if isinstance(values, dict) and values.get("video") is not None:
        values = {"video_stride": OLD_VIDEO_STRIDE, **values}
    return build(Episode, values, place)


def build(cls: type[T], values: Any, place: str) -> T:
    """Build the dataclass `cls` from a mapping after checking names and types.

    Raises:
        ResultsError: an entry is unknown, missing or of the wrong type; the message starts with `place`.
    """
    if not isinstance(values, dict):
        raise ResultsError(f"{place} must be a mapping, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    for name in values.keys() - hints.keys():
        raise ResultsError(f"{place} has an unknown entry '{name}'")
    built: dict[str, Any] = {}
    for item in fields:
        if item.name in values:
            built[item.name] = _checked(hints[item.name], values[item.name], f"{place}.{item.name}")
        elif item.default is dataclasses.MISSING:
            raise ResultsError(f"{place} lacks '{item.name}'")
    return cls(**built)


def _checked(kind: Any, value: Any, place: str) -> Any:
    options = typing.get_args(kind) if typing.get_origin(kind) is types.UnionType else (kind,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return build(option, value, place)  # type: ignore[arg-type]
        if _is(option, value):
            return value
    raise ResultsError(f"{place} must be {_name(kind)}, got {value!r}")


def _is(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return isinstance(value, list) and all(_is(item, one) for one in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and typing.get_origin(kind) is None else str(kind)
