"""What a client asks for besides actions: the options in `message["rdvla"]`, checked one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rdvla.control import ExecutionRule, WarmStart, check_fits, parse_execution, parse_stop, split_start
from rdvla.errors import InputError, nearest
from rdvla.inputs import as_seed, whole_number

OPTIONS_KEY = "rdvla"
LONGEST_DEADLINE_MS = 3_600_000.0
LONGEST_RULE = 200  # characters


@dataclass(frozen=True)
class Options:
    """Options of one request; None where the client says nothing."""

    max_depth: int | None = None  # iterations at most
    deadline_ms: float | None = None  # from the arrival at the server to the reply's departure
    stop: str | None = None  # stop rule; with @START behind it, where the iterations start
    execution: str | None = None  # execution rule, from now on
    seed: int | None = None  # of S_0
    executed: int | None = None  # actions of the last chunk that the robot has executed
    reset: bool = False  # a new episode begins

    @property
    def stop_rule(self) -> str | None:
        """The stop rule without its start."""
        return None if self.stop is None else split_start(self.stop)[0]

    @property
    def start(self) -> WarmStart | None:
        """Where the iterations start; None: as the policy says."""
        return split_start(self.stop)[1] if self.stop is not None and "@" in self.stop else None

    @property
    def execution_rule(self) -> ExecutionRule | None:
        """The execution rule."""
        return None if self.execution is None else parse_execution(self.execution)


OPTION_NAMES = tuple(option.name for option in fields(Options))


def read_options(message: Mapping[str, Any], *, depth_limit: int, chunk_size: int) -> Options:
    """Return the options in a client's message.

    Args:
        message: as unpacked.
        depth_limit: iterations that a client may ask for.
        chunk_size: K.

    Raises:
        RDVLAError: an option is unknown or has a wrong value.
    """
    given = message.get(OPTIONS_KEY, {})
    if not isinstance(given, Mapping):
        raise InputError(f"{OPTIONS_KEY!r} must be a map of options, got {type(given).__name__}")
    for name in given:
        if name not in OPTION_NAMES:
            raise InputError(
                f"{OPTIONS_KEY!r} has the unknown option {name!r}; there are {', '.join(OPTION_NAMES)}."
                f"{nearest(str(name), OPTION_NAMES)}"
            )
    values = {name: value for name, value in given.items() if value is not None}
    options = Options(
        max_depth=_whole(values, "max_depth", least=1, most=depth_limit),
        deadline_ms=_milliseconds(values, "deadline_ms"),
        stop=_text(values, "stop"),
        execution=_text(values, "execution"),
        seed=None if "seed" not in values else as_seed(values["seed"]),
        executed=_whole(values, "executed", least=0, most=chunk_size),
        reset=_flag(values, "reset"),
    )
    if options.stop_rule is not None:
        deepest = parse_stop(options.stop_rule).max_depth
        if deepest > depth_limit:
            raise InputError(f"stop asks for {deepest} iterations; this server allows {depth_limit}")
    if options.execution_rule is not None:
        check_fits(options.execution_rule, chunk_size=chunk_size)
    return options


def only_resets(message: Mapping[str, Any], options: Options) -> bool:
    """Whether a message says that an episode begins, and holds no observation."""
    return options.reset and set(message) == {OPTIONS_KEY}


def _whole(values: Mapping[str, Any], name: str, *, least: int, most: int) -> int | None:
    if name not in values:
        return None
    number = whole_number(values[name])
    if number is None or not least <= number <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most}, got {_shown(values[name])}")
    return number


def _milliseconds(values: Mapping[str, Any], name: str) -> float | None:
    if name not in values:
        return None
    value = values[name]
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except (OverflowError, TypeError):  # too large, or complex
        number = math.nan
    if not 0 < number <= LONGEST_DEADLINE_MS:
        raise InputError(f"{name} must be milliseconds, above 0 and at most an hour, got {_shown(value)}")
    return number


def _text(values: Mapping[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    text = values[name]
    if not isinstance(text, str) or len(text) > LONGEST_RULE:
        raise InputError(f"{name} must be a text of at most {LONGEST_RULE} characters, got {_shown(text)}")
    return str(text)


def _flag(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} must be true or false, got {_shown(value)}")
    return bool(value)


def _shown(value: Any) -> str:
    return repr(value)[:60]
