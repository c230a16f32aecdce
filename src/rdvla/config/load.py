"""Configurations: dataclasses filled from a YAML file and dotted overrides (`--policy.head.hidden_dim=64`).

draccus does the parsing, the decoding and the help; this module says in one sentence what is wrong when a
file or a command line does not fit the dataclass.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import draccus
import mergedeep
import yaml
from draccus import utils
from draccus.argparsing import ArgumentParser
from draccus.cfgparsing import parse_string

from rdvla.assets import config_names, find_config
from rdvla.config.check import (
    alternatives,
    check,
    check_finite,
    describe_type,
    new_names,
    option_names,
    rename_old,
    type_at,
)
from rdvla.config.defaults import complete, shown_defaults
from rdvla.config.documents import read_yaml, shown
from rdvla.config.help import option_help
from rdvla.errors import ConfigError, nearest
from rdvla.files import write_atomically

T = TypeVar("T")


def load_config(
    cls: type[T], argv: Sequence[str], *, prog: str | None = None, description: str | None = None
) -> T:
    """Build a `cls` from `argv`: `--config file.yaml` (or `--config_path`), then overrides, which win.

    `--config` also takes the name of a configuration that ships, such as `reproduce/recurrent`.

    `--a.b=1` and `--a.b 1` mean the same; lists are written as YAML (`--cameras '[front, wrist]'`). An option
    of a group changes that option alone: the others keep the defaults that `--help` prints. Naming the `type`
    of a component chooses it with its own defaults.

    `--help` prints every option with its comment and exits.

    Args:
        cls: the dataclass to fill.
        argv: the command line's words.
        prog: the command's name in its help.
        description: what the command does, for its help.

    Raises:
        ConfigError: an option is unknown or has a wrong value; the message names it, and the nearest right
            name or the expected type.
    """
    parser = _Parser(cls, exit_on_error=False, prog=prog, description=description)
    try:
        given, unknown = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ConfigError(f"option {str(error.argument_name).lstrip('-')!r}: {error.message}") from error
    if unknown:
        raise ConfigError(_unknown_argument(unknown[0], cls))
    file = given.pop(utils.CONFIG_ARG, None)
    values = {} if file is None else read_config(cls, file)
    check(cls, complete(cls, values), source=f"{file}: ")
    return _decode(cls, complete(cls, dict(mergedeep.merge(values, _parse_values(given)))))


def read_config(cls: type[Any], file: str) -> dict[str, Any]:
    """Return what a configuration file says, nested, under the present names of the options of `cls`.

    Args:
        cls: the dataclass that the options are meant for.
        file: its path, or the name of one that ships.

    Raises:
        ConfigError: there is no such file, it is no YAML, or an option is given twice.
    """
    renamed: dict[str, Any] = rename_old(cls, read_yaml(find_config(file)), source=f"{file}: ")
    return renamed


def complete_config(cls: type[T], values: dict[str, Any], *, source: str) -> T:
    """Build a `cls` as `load_config` would from a configuration file that holds `values`.

    Args:
        cls: the dataclass to fill.
        values: nested plain values.
        source: goes in front of errors.

    Raises:
        ConfigError: an option is unknown or has a wrong value.
    """
    try:
        return _decode(cls, complete(cls, values))
    except ConfigError as error:
        raise ConfigError(f"{source}{error}") from error


def save_config(path: Path | str, config: Any) -> None:
    """Write every option of the dataclass `config` as YAML, atomically; `load_config` reads it back equal."""
    with write_atomically(path) as temporary:
        temporary.write_text(yaml.safe_dump(encode_config(config), sort_keys=False), encoding="utf-8")


def encode_config(config: Any) -> dict[str, Any]:
    """Return the dataclass `config` as nested plain values (YAML and JSON can hold them)."""
    encoded: dict[str, Any] = draccus.encode(config)
    return encoded


def decode_config(cls: type[T], values: dict[str, Any], *, source: str = "") -> T:
    """Build a `cls` from the nested plain values of a saved file; options may have the names of older files.

    Args:
        cls: the dataclass to fill.
        values: what the file held.
        source: such as the file's name; goes in front of errors.

    Raises:
        ConfigError: an option is unknown or has a wrong value.
    """
    try:
        return _decode(cls, rename_old(cls, values))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}" if source else str(error)) from error


def _decode(cls: type[T], values: dict[str, Any]) -> T:
    check(cls, values)
    try:
        decoded: T = draccus.decode(cls, values)
    except utils.ParsingError as error:
        raise ConfigError(_explain(error, cls, values)) from error
    check_finite(decoded)
    return decoded


class _Parser(ArgumentParser[Any]):
    """draccus' parser with `--config`, a short usage line, and no decoding."""

    def __init__(self, config_class: type[Any], **kwargs: Any) -> None:
        super().__init__(config_class, **kwargs)
        self.parser.usage = (
            f"{self.parser.prog} [--config FILE.yaml] [--option value] [--option '[a, b]'] ..."
        )
        texts, defaults = option_help(config_class), shown_defaults(config_class)
        for group in self.parser._action_groups:
            owner = (group.title or "").split(" ")[0]  # the class's name
            for action in group._group_actions:
                if (action.help or "").startswith(("Config file for", "Path for a config file")):
                    action.help = argparse.SUPPRESS
                    continue
                text = texts.get(f"{owner}:{action.dest}", texts.get(action.dest))
                action.help = action.help if text is None else text.replace("%", "%%")
                default = defaults.get(f"{owner}:{action.dest}", defaults.get(action.dest))
                action.default = action.default if default is None else default
                if bool in alternatives(type_at(config_class, action.dest.split("."))):
                    action.nargs, action.const = "?", "true"  # `--resume` alone is true
            if group.description:  # a docstring's first paragraph
                group.description = group.description.strip().split("\n\n")[0]
        shipped = ", ".join(config_names())
        self.parser.add_argument(
            "--config",
            dest=utils.CONFIG_ARG,
            metavar="FILE.yaml",
            help=f"YAML file, or one that ships ({shipped}); overrides win",
        )

    def _postprocessing(self, parsed_args: argparse.Namespace) -> Any:
        return vars(parsed_args)  # option -> text; `load_config` checks the whole before decoding


def _parse_values(given: dict[str, str]) -> dict[str, Any]:
    """Read the command line's texts as YAML, and nest `{"a.b": 1}` as `{"a": {"b": 1}}`."""
    try:
        nested: dict[str, Any] = utils.deflatten({name: parse_string(text) for name, text in given.items()})
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"a value on the command line is not valid YAML: {error}") from error
    except RecursionError:
        raise ConfigError("a value on the command line is nested too deeply") from None
    except TypeError as error:
        raise ConfigError(
            "a group of options (such as 'head') cannot have a value next to its options"
        ) from error
    return nested


def _unknown_argument(token: str, cls: type[Any]) -> str:
    if not token.startswith("-"):
        return f"unexpected argument '{token}'; options are written --name=value"
    name = token.lstrip("-").split("=")[0]
    renamed = new_names(cls)
    if name in renamed:
        return f"unknown option '{name}': it is called '{renamed[name]}' now"
    return f"unknown option '{name}'.{nearest(name, [*option_names(cls), 'config', 'debug', 'help'])}"


def _explain(error: utils.ParsingError, cls: type[Any], values: dict[str, Any]) -> str:
    """Say in one line what draccus found wrong."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if any(
        isinstance(link, utils.ParsingError) and not isinstance(link, utils.DecodingError) for link in chain
    ):
        return str(chain[-1])  # what a dataclass said when it refused its values
    assert isinstance(error, utils.DecodingError)  # every other ParsingError was a refusal
    path: list[str] = list(error.key_path)
    value: Any = values
    for part in path:
        value = value[int(part)] if isinstance(value, (list, tuple)) else value.get(part, {})
    kind = type_at(cls, path)
    if inspect.isclass(kind) and hasattr(kind, "__dataclass_fields__"):
        return f"option '{'.'.join(path)}': {error.message}" if path else error.message
    return f"option '{'.'.join(path)}': expected {describe_type(kind)}, got {shown(value)}"
