"""Checks of single values, in the words of the options."""

from __future__ import annotations

from rdvla.errors import ConfigError, nearest


def positive(owner: str, **values: float) -> None:
    """Raise ConfigError where one of the values of `owner` is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{owner}.{name} is {value}; it must be larger than 0.")


def not_negative(owner: str, **values: float) -> None:
    """Raise ConfigError where one of the values of `owner` is below 0."""
    for name, value in values.items():
        if not value >= 0:
            raise ConfigError(f"{owner}.{name} is {value}; it must be 0 or larger.")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError, with the nearest right name, where a value is none of the allowed ones."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of {list(allowed)}.{nearest(value, allowed)}")
