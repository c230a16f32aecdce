"""Defaults of groups of options, which may differ from those of the group's class.

`PolicyConfig.head` is a small head, `RecurrentConfig()` the paper's. A user who gives one option of the group
means the default that `--help` shows, with that one option changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import draccus

from rdvla.config.check import CHOICE_KEY


def complete(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with every group that is given in part, and without a `type`, filled from its default.

    Args:
        cls: the dataclass that the values are meant for.
        values: nested plain values, of a file or a command line.
    """
    completed = dict(values)
    for field in dataclasses.fields(cls):
        given, default = completed.get(field.name), _default(field)
        if isinstance(given, Mapping) and _is_group(default) and CHOICE_KEY not in given:
            completed[field.name] = _over(_type(default) | draccus.encode(default), given)
    return completed


def shown_defaults(owner: Any, prefix: str = "") -> dict[str, Any]:
    """Return the defaults of groups, `Class:dotted.name` -> value; a group's `type` goes by its dotted name.

    Args:
        owner: a dataclass, or an instance of one whose values are the defaults.
        prefix: in front of the names.
    """
    shown: dict[str, Any] = {}
    for field in dataclasses.fields(owner):
        name = f"{prefix}{field.name}"
        value = _default(field) if isinstance(owner, type) else getattr(owner, field.name)
        if not isinstance(owner, type):
            shown[f"{type(owner).__name__}:{name}"] = value
        if _is_group(value):
            shown |= shown_defaults(value, f"{name}.")
            shown |= {f"{name}.{key}": choice for key, choice in _type(value).items()}
    return shown


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is_group(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _type(value: Any) -> dict[str, str]:
    """The `type` of a component with several classes to choose from; nothing for other groups."""
    kind = type(value)
    return {CHOICE_KEY: kind.get_choice_name(kind)} if issubclass(kind, draccus.ChoiceRegistry) else {}


def _over(default: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` over `default`; a group in it that names its `type` stands for itself."""
    merged = dict(default)
    for name, value in given.items():
        below = merged.get(name)
        nested = isinstance(value, Mapping) and isinstance(below, dict) and CHOICE_KEY not in value
        merged[name] = _over(below, value) if nested else value  # type: ignore[arg-type]  # both are mappings
    return merged
