"""The errors that rdvla raises for bad input, each with a message that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RDVLAError(Exception):
    """Base of every error that bad input can cause; the command line prints just its message."""


class ConfigError(RDVLAError, ValueError):
    """A configuration has an unknown option or a wrong value, or asks for something impossible."""


class InputError(RDVLAError, ValueError):
    """An observation lacks something, or holds something of another shape or type than a policy takes."""


class DatasetError(RDVLAError, ValueError):
    """A dataset is missing, damaged, or not in the expected format; the message names the file."""


class MissingExtraError(RDVLAError, ImportError):
    """An optional package is needed and is not installed; the message names the extra that brings it."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Return the error for an optional `package` that is missing; `extra` of rdvla brings it."""
    return MissingExtraError(f"{package} is not installed: pip install 'rdvla[{extra}]'")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the candidate closest to `name`, or "" when none is close."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""
