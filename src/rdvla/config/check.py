"""Compare plain values (from YAML, JSON or a command line) with the dataclass that they are meant to fill.

A field that was renamed says so, and files that were saved under the old name still load::

    stop: str = field(default="action_change:1e-3", metadata={"was": "depth"})
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from draccus.utils import is_choice_type

from rdvla.config.documents import shown
from rdvla.errors import ConfigError, nearest

CHOICE_KEY = "type"  # draccus' name of the key that selects one class of a registry
GONE = "gone"  # class attribute of options that are no more -> the value that meant what is done now
MOST_BITS = 256  # of a whole number; larger ones cannot even be printed
MOST_ITEMS = 10_000  # of an option that is a list
WAS = "was"  # key of a field's metadata: the name that the option had before


def check(cls: type[Any], values: Any, *, source: str = "") -> None:
    """Raise `ConfigError` at the first unknown option or value of the wrong shape; `source` goes in front.

    Catch what decoding would let pass: null for a number, a text for a list, yes/no for a number.
    """
    try:
        _check(cls, values, (), cls)
    except ConfigError as error:
        raise ConfigError(f"{source}{error}") from None


def check_finite(config: Any, path: tuple[str, ...] = ()) -> None:
    """Raise `ConfigError` if an option of the dataclass `config` is an infinity or NaN."""
    if isinstance(config, float) and not math.isfinite(config):
        raise ConfigError(f"option '{'.'.join(path)}': expected a finite number, got {config}")
    inner: Iterable[tuple[Any, Any]] = ()
    if dataclasses.is_dataclass(config):
        inner = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    elif isinstance(config, Mapping):
        inner = config.items()
    elif isinstance(config, (list, tuple)):
        inner = enumerate(config)
    for name, value in inner:
        check_finite(value, (*path, str(name)))


def rename_old(cls: type[Any], values: Any, *, source: str = "") -> Any:
    """Return `values`, as a file held them, with the options of `cls` under their present names.

    Options that are no more are left out if they had the value that means what is done now.

    Raises:
        ConfigError: an option is given under both names.
    """
    try:
        return _rename(cls, values, ())
    except ConfigError as error:
        raise ConfigError(f"{source}{error}") from None


def option_names(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every option of the dataclass `cls`, nested ones and groups included."""
    for name, kind in _options(cls).items():
        yield prefix + name
        for group in _groups(kind):
            yield from option_names(group, f"{prefix}{name}.")


def new_names(cls: type[Any], prefix: str = "") -> dict[str, str]:
    """Return the dotted old name of every renamed option of `cls` -> its dotted present name."""
    found = {f"{prefix}{old}": prefix + new for old, new in _renamed(cls).items()}
    for name, kind in _options(cls).items():
        for group in _groups(kind):
            found |= new_names(group, f"{prefix}{name}.")
    return found


def type_at(cls: type[Any], path: list[str]) -> Any:
    """Return the declared type of the option at `path` (item numbers of lists included)."""
    kind: Any = cls
    for part in path:
        holders = [group for group in _groups(kind) if part in _options(group)]
        if holders:
            kind = _options(holders[0])[part]
            continue
        for alternative in alternatives(kind):
            items = typing.get_args(alternative) if _is_mapping(alternative) else ()
            items = items or _item_types(alternative, int(part) + 1 if part.isdigit() else 1)
            if items:
                kind = items[-1]
                break
    return kind


def describe_type(kind: Any) -> str:
    """Return a type as a user would say it: `int`, `int or null`, `one of 'a', 'b'`, `list of str`."""
    if kind is type(None):
        return "null"
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(kind))
    if len(alternatives(kind)) > 1:
        return " or ".join(describe_type(alternative) for alternative in alternatives(kind))
    if typing.get_origin(kind) in (list, tuple, set):
        items = [item for item in typing.get_args(kind) if item is not Ellipsis]
        shown = [describe_type(item) for item in items]
        fixed = typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind)
        return f"a list [{', '.join(shown)}]" if fixed else f"a list of {shown[0] if shown else 'values'}"
    if _is_config(kind):
        return f"the options of {kind.__name__}"
    return "a path" if kind is Path else getattr(kind, "__name__", str(kind))


def _check(kind: Any, value: Any, path: tuple[str, ...], root: type[Any]) -> None:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ConfigError(f"option '{'.'.join(path)}': a whole number has at most {MOST_BITS} bits")
    fitting = [alternative for alternative in alternatives(kind) if _fits(alternative, value)]
    if not fitting:
        name = f"option '{'.'.join(path)}'" if path else "the configuration"
        raise ConfigError(f"{name}: expected {describe_type(kind)}, got {shown(value)}")
    for alternative in fitting:
        if _is_config(alternative):
            _check_options(alternative, value, path, root)
        elif isinstance(value, (list, tuple)):
            kinds = _kinds_of_items(alternative, value, path)
            for index, (item_kind, item) in enumerate(zip(kinds, value, strict=False)):
                _check(item_kind, item, (*path, str(index)), root)


def _check_options(cls: Any, values: Mapping[Any, Any], path: tuple[str, ...], root: type[Any]) -> None:
    options = _options(cls)
    if is_choice_type(cls) and not _is_choice(cls):
        known = cls.get_known_choices()
        chosen = values.get(CHOICE_KEY, cls.default_choice_name())
        name = ".".join((*path, CHOICE_KEY))
        if chosen is None:
            raise ConfigError(f"option '{name}' is missing: one of {', '.join(known)}")
        if chosen not in known:
            raise ConfigError(f"option '{name}': unknown choice {chosen!r}.{nearest(str(chosen), known)}")
        options = {CHOICE_KEY: str, **_options(known[chosen])}
    for key, value in values.items():
        if key not in options:
            name = ".".join((*path, _first_leaf(str(key), value)))
            raise ConfigError(f"unknown option '{name}'.{nearest(name, option_names(root))}")
        _check(options[key], value, (*path, str(key)), root)


def _rename(kind: Any, value: Any, path: tuple[str, ...]) -> Any:
    for alternative in alternatives(kind):
        if _is_config(alternative) and isinstance(value, Mapping):
            return _rename_options(alternative, value, path)
        if isinstance(value, (list, tuple)) and (kinds := _kinds_of_items(alternative, value, path)):
            paired = zip(kinds, value, strict=False)
            items = [_rename(item_kind, item, (*path, str(i))) for i, (item_kind, item) in enumerate(paired)]
            return [*items, *value[len(items) :]]
    return value


def _kinds_of_items(kind: Any, value: list[Any] | tuple[Any, ...], path: tuple[str, ...]) -> tuple[Any, ...]:
    if len(value) > MOST_ITEMS:  # before anything looks at each of them
        raise ConfigError(
            f"option '{'.'.join(path)}': a list has at most {MOST_ITEMS} entries, got {len(value)}"
        )
    return _item_types(kind, len(value))


def _rename_options(cls: Any, values: Mapping[Any, Any], path: tuple[str, ...]) -> dict[Any, Any]:
    if is_choice_type(cls) and not _is_choice(cls):
        cls = cls.get_known_choices().get(values.get(CHOICE_KEY, cls.default_choice_name()), cls)
    options, renamed = _options(cls), _renamed(cls)
    gone = getattr(cls, GONE, {})
    result: dict[Any, Any] = {}
    for key, value in values.items():
        if key in gone and value == gone[key]:
            continue
        name = key if key in options else renamed.get(key, key)
        if name != key and name in values:
            old, new = (".".join((*path, each)) for each in (key, name))
            raise ConfigError(
                f"option '{new}' is also given under its old name '{old}': leave one of them out"
            )
        result[name] = _rename(options[name], value, (*path, name)) if name in options else value
    return result


def _first_leaf(name: str, value: Any) -> str:
    """Return the dotted name of the first value in a nested mapping: the name that its author had in mind."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    return name


def _fits(kind: Any, value: Any) -> bool:
    """Whether `value` has the shape of `kind`, items aside; decoding still has to read scalars."""
    origin = typing.get_origin(kind) or kind
    if origin is Any:
        return True
    if origin is type(None):
        return value is None
    if _is_config(origin) or _is_mapping(kind):
        return isinstance(value, Mapping)
    if origin in (list, tuple, set):
        return isinstance(value, (list, tuple))
    if origin is bool:
        return isinstance(value, bool) or value in ("true", "false")
    if origin is Literal:
        return not isinstance(value, (Mapping, list, tuple))
    return value is not None and not isinstance(value, (Mapping, list, tuple, bool))


def _options(cls: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _renamed(cls: Any) -> dict[str, str]:
    """Old name -> present name, of a dataclass's own options."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {field.metadata[WAS]: field.name for field in fields if WAS in field.metadata}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type alone."""
    is_union = typing.get_origin(kind) in (Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _groups(kind: Any) -> list[Any]:
    """Classes whose options may stand under an option of type `kind`; of a registry, every choice."""
    groups: list[Any] = []
    for alternative in alternatives(kind):
        if is_choice_type(alternative) and not _is_choice(alternative):
            groups += alternative.get_known_choices().values()
        elif _is_config(alternative):
            groups.append(alternative)
    return groups


def _is_choice(cls: Any) -> bool:
    """Whether `cls` is one of its registry's choices rather than the registry."""
    return cls in cls.get_known_choices().values()


def _item_types(kind: Any, count: int) -> tuple[Any, ...]:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) not in (list, tuple, set) or not arguments:
        return ()
    if typing.get_origin(kind) is tuple and Ellipsis not in arguments:
        return arguments
    return (arguments[0],) * count


def _is_mapping(kind: Any) -> bool:
    return (typing.get_origin(kind) or kind) in (dict, Mapping)


def _is_config(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or is_choice_type(kind)
