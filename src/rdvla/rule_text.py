"""Stop rules as text, for everyone who reads them: what they mean is said where they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rdvla.errors import ConfigError, nearest

FIXED = "fixed"


def read_rule(text: str, parameters: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, float]]:
    """Read ``8``, ``fixed:8`` or ``NAME[:value...[:min_depth:max_depth]]``.

    Args:
        text: the rule.
        parameters: names of the rules that adapt, each with the names of its values in order.

    Returns:
        its name, and its numbers by name: ``depth`` of a fixed depth; those of `parameters` that are given,
        and ``min_depth`` and ``max_depth``, of a rule that adapts. Depths are whole numbers.

    Raises:
        ConfigError: the text is no such rule.
    """
    name, *values = text.strip().split(":")
    if name.isdigit() and not values:
        name, values = FIXED, [name]
    try:
        if name == FIXED and len(values) == 1:
            return name, {"depth": int(values[0])}
        if name in parameters:
            named = parameters[name]
            if len(values) in (0, len(named), len(named) + 2):
                numbers: dict[str, float] = {
                    key: float(value) for key, value in zip(named, values, strict=False)
                }
                limits = zip(("min_depth", "max_depth"), values[len(named) :], strict=False)
                return name, numbers | {key: int(value) for key, value in limits}
    except ValueError as error:
        raise ConfigError(f"cannot read the stop rule {text!r}: {error}") from error
    if name in parameters:
        form = ":".join([name, *parameters[name]])
        raise ConfigError(
            f"cannot read the stop rule {text!r}; write {name}, {form} or {form}:min_depth:max_depth"
        )
    known = [FIXED, *parameters]
    raise ConfigError(
        f"unknown stop rule {text!r}; write a depth such as '8', or NAME[:threshold[:min_depth:max_depth]] "
        f"with NAME one of {', '.join(known)}.{nearest(name, known)}"
    )
