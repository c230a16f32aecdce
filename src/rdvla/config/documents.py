"""Reads YAML files of strangers: what would exhaust memory or the reader is refused before it is built."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import yaml

from rdvla.errors import ConfigError

MOST_VALUES = 100_000  # of a document, with every alias written out
LONGEST_SHOWN = 300  # characters of a value in a message


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the options in a YAML file; none if it is empty.

    Raises:
        ConfigError: it is missing, damaged, nested too deeply, or its aliases stand for too many values.
    """
    try:
        values = _load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from error
    except RecursionError:
        raise ConfigError(f"the configuration file {path} cannot be read: it is nested too deeply") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the configuration file {path} must hold options, one 'name: value' per line")
    return values


def shown(value: object) -> str:
    """Return a value as messages show it: short, however long it is."""
    text = reprlib.Repr()
    text.maxlevel, text.maxlist, text.maxtuple, text.maxdict, text.maxset = 4, 20, 20, 20, 20
    text.maxstring = text.maxother = LONGEST_SHOWN
    try:
        return text.repr(value)[: 2 * LONGEST_SHOWN]
    except ValueError:  # a whole number with thousands of digits
        return f"a {type(value).__name__}"


def _load(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases (*name) stand for more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values below a node, aliases written out; one that holds itself has no end."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_VALUES  # while it is open
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    known[id(node)] = 1 + sum(_size(each, known) for each in inner)
    return known[id(node)]
