"""Call a typed function with the arguments of a command line.

The signature says what the command takes, the docstring what its help says. Arguments without a star in front
are positional, those behind it are options::

    def run(policy: str, *, private: bool = False) -> None:
        \"\"\"Publish a policy.

Args:
            policy: folder of a policy.
            private: visible to its owner only.
        \"\"\"

`call(run, argv, prog="rdvla push")` then understands ``POLICY [--private]``. A function of one dataclass
takes the dataclass's options, as `load_config` reads them.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Union

from rdvla.config.help import section
from rdvla.config.load import load_config
from rdvla.errors import ConfigError

LISTS = (list, tuple)
M = typing.TypeVar("M")  # kind of a mark


@dataclasses.dataclass(frozen=True)
class Pairs:
    """In ``Annotated[dict[str, str], Pairs("NAME=CAMERA", "image=agentview")]``: how pairs are written."""

    form: str
    example: str


@dataclasses.dataclass(frozen=True)
class More:
    """In ``Annotated[str, More("a or b")]``: what follows an option's own help, such as choices."""

    text: str


@dataclasses.dataclass(frozen=True)
class Number:
    """In ``Annotated[int, Number(at_least=1)]``: what an option takes. NaN and infinities never fit."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def check(self, option: str, value: float) -> None:
        """Raise `ConfigError` if an option's value is none of these numbers."""
        fits = (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )
        if not fits:
            raise ConfigError(f"{option} must be {self._range()}, got {value}")

    def _range(self) -> str:
        limits = {
            "at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below
        }  # fmt: skip
        said = [f"{words} {limit:g}" for words, limit in limits.items() if limit is not None]
        return " and ".join(said) or "a finite number"


def call(function: Callable[..., Any], argv: Sequence[str], *, prog: str) -> Any:
    """Read `argv` by the signature of `function`, call it, and return its result.

    Args:
        function: its parameters are str, int, float, Path, bool (a flag), Literal, lists or tuples of these,
            `Pairs`, or an int or float with its `Number`; or one dataclass. With ``*arguments`` it gets
            `argv` as it is.
        argv: the words after the command's name.
        prog: the command's name, for its help.

    Raises:
        ConfigError: a dataclass's option or a pair is wrong, or a number is out of its range.
        SystemExit: after `--help`, or after argparse has printed what is wrong.
    """
    parameters = list(inspect.signature(function).parameters.values())
    hints = typing.get_type_hints(function, include_extras=True)
    if [parameter.kind for parameter in parameters] == [inspect.Parameter.VAR_POSITIONAL]:
        return function(*argv)
    if len(parameters) == 1 and dataclasses.is_dataclass(kind := hints[parameters[0].name]):
        assert isinstance(kind, type)
        return function(load_config(kind, argv, prog=prog, description=_description(function)))
    parser = argparse.ArgumentParser(prog=prog, description=_description(function))
    texts = section(function.__doc__ or "", "Args")
    for parameter in parameters:
        _add(parser, parameter, hints[parameter.name], texts.get(parameter.name, ""))
    words = vars(parser.parse_args(argv))
    given = {each.name: _converted(_written(each), hints[each.name], words[each.name]) for each in parameters}
    positional = [given.pop(each.name) for each in parameters if each.kind is not each.KEYWORD_ONLY]
    return function(*positional, **given)


def _description(function: Callable[..., Any]) -> str:
    return inspect.cleandoc(function.__doc__ or "").split("\nArgs:")[0].strip()


def _add(parser: argparse.ArgumentParser, parameter: inspect.Parameter, kind: Any, text: str) -> None:
    required = parameter.default is parameter.empty
    default = None if required else parameter.default
    parameter_kind, kind, pairs = kind, _bare(kind), _mark(kind, Pairs)
    settings: dict[str, Any] = {"default": default}
    if pairs is not None:
        settings |= {"nargs": "+", "metavar": pairs.form}
    elif kind is bool:
        settings |= {"action": "store_true"}
    elif typing.get_origin(kind) is Literal:
        settings |= {"choices": typing.get_args(kind)}
    elif typing.get_origin(kind) in LISTS:
        settings |= {"nargs": "+", "type": _bare(typing.get_args(kind)[0])}
    else:
        settings |= {"type": kind}
    more = _mark(parameter_kind, More)
    if more is not None:
        text = f"{text} {more.text}"
    if default not in (None, False, (), ""):
        shown = " ".join(map(str, default)) if isinstance(default, LISTS) else default
        text = f"{text.removesuffix('.')} (default: {shown})"
    settings["help"] = text.replace("%", "%%")
    if parameter.kind is parameter.KEYWORD_ONLY:
        parser.add_argument(_written(parameter), required=required, **settings)
    else:
        settings |= {} if required else {"nargs": "?"}
        parser.add_argument(parameter.name, **settings)


def _written(parameter: inspect.Parameter) -> str:
    """Return how a parameter is written on the command line."""
    is_option = parameter.kind is parameter.KEYWORD_ONLY
    return f"--{parameter.name.replace('_', '-')}" if is_option else parameter.name


def _converted(name: str, kind: Any, value: Any) -> Any:
    """Convert an option's words, as argparse returns them, to the type in the signature."""
    pairs = _mark(kind, Pairs)
    if value is None:
        return None
    if pairs is not None:
        return _split(name, value, pairs)
    for each in value if isinstance(value, LISTS) else (value,):
        if isinstance(each, int | float):
            (_mark(kind, Number) or Number()).check(name, each)
    return tuple(value) if typing.get_origin(_bare(kind)) is tuple else value


def _split(option: str, words: Sequence[str], pairs: Pairs) -> dict[str, str]:
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if not (name and value):
            raise ConfigError(f"{option} takes {pairs.form}, such as {pairs.example}, got {word!r}")
        found[name] = value
    return found


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (Union, types.UnionType):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    return kind


def _bare(kind: Any) -> Any:
    """Return a type without `None` and without marks."""
    kind = _without_none(kind)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _mark(kind: Any, of: type[M]) -> M | None:
    """Return the mark of a kind on a type, or on the items of a list."""
    kind = _without_none(kind)
    if typing.get_origin(kind) in LISTS:
        return _mark(typing.get_args(kind)[0], of)
    marks = kind.__metadata__ if typing.get_origin(kind) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, of)), None)
