"""Numbers and names that options may have; NaN and infinity are in no range."""

from __future__ import annotations

from typing import NoReturn

from rdvla.errors import ConfigError, nearest

MOST = 2**53  # of anything that is counted: larger whole numbers are no numbers in JSON


def positive(owner: str, **values: float) -> None:
    """Raise ConfigError if a value of `owner` is not above 0, or too large to be meant."""
    for name, value in values.items():
        if not 0 < value <= MOST:
            refuse(f"{owner}.{name}", value, least="larger than 0")


def not_negative(owner: str, **values: float) -> None:
    """Raise ConfigError if a value of `owner` is below 0, or too large to be meant."""
    for name, value in values.items():
        if not 0 <= value <= MOST:
            refuse(f"{owner}.{name}", value, least="0 or larger")


def refuse(option: str, value: float, *, least: str) -> NoReturn:
    """Raise ConfigError for a number that is too small, too large or none."""
    raise ConfigError(f"{option} is {value}; it must be {f'at most {MOST}' if value > MOST else least}.")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError, with the nearest right name, if a value is not allowed."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of {list(allowed)}.{nearest(value, allowed)}")
