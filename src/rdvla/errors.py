"""The errors that rdvla raises for bad input, each with a message that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Extras of pyproject.toml that bring others.
INCLUDED = {
    "train": ("data",),
    "convert": ("data",),
    "wandb": ("train",),
    "trackio": ("train",),
    "metaworld": ("eval",),
    "libero": ("eval",),
    "lora": ("vlm",),
    "export": ("runtime",),
    "ray": ("serve",),
}

# Extras with the robot's client, a distribution of its own that a checkout has next to rdvla.
NEED_CLIENT = {"serve", "ray", "all"}
CLIENT = "packages/rdvla-client"


class RDVLAError(Exception):
    """Base of every error that bad input can cause; the command line prints just its message."""


class ConfigError(RDVLAError, ValueError):
    """A configuration has an unknown option or a wrong value, or asks for something impossible."""


class InputError(RDVLAError, ValueError):
    """An observation lacks something, or holds something of another shape or type than a policy takes."""


class NotFiniteError(InputError):
    """A policy computed NaN or infinite actions, which no robot may get.

    Attributes:
        prediction: all of it, for whoever can use its other samples.
    """

    prediction: Any = None


class DatasetError(RDVLAError, ValueError):
    """A dataset is missing, damaged, or not in the expected format; the message names the file."""


class MissingExtraError(RDVLAError, ImportError):
    """An optional package is needed and is not installed; the message names the extra that brings it.

    Attributes:
        extra: the extra of rdvla that brings the package, whose name is in `name`.
    """

    extra: str = ""


class UnknownInstructionWarning(UserWarning):
    """A policy is given an instruction that it was not trained on."""


def require_range(
    name: str, value: float, *, above: float | None = None, least: float | None = None, most: float
) -> None:
    """Check the number that an option or an entry of a file has.

    Args:
        name: of the option, for the message.
        value: NaN and infinity are in no range.
        above: it must be larger than this.
        least: it must be this or larger.
        most: it must be this or smaller.

    Raises:
        ConfigError: it is out of range; the message says the range.
    """
    if value <= most and (above is None or value > above) and (least is None or value >= least):
        return
    start = f"above {above:g} and " if above is not None else ""
    start = f"at least {least:g} and " if least is not None else start
    raise ConfigError(f"{name} must be {start}at most {most:g}, got {value}")


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Return the error for an optional `package` that is missing; `extra` of rdvla brings it."""
    error = MissingExtraError(f"{package} is not installed: {install_command(extra)}", name=package)
    error.extra = extra
    return error


@contextmanager
def optional(extra: str) -> Iterator[None]:
    """Guard imports of optional packages: a missing one names the `extra` of rdvla that brings it.

    Several extras are written with commas between.

    Of nested guards the inner one decides, unless the outer extra includes the inner: whoever trains needs
    `train`, not just `data`.

    Raises:
        MissingExtraError: the body imports a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "rdvla"):
            raise
        raise missing_extra(package, extra) from error
    except MissingExtraError as error:
        covered = {each for name in extra.split(",") for each in (name, *INCLUDED.get(name, ()))}
        if error.extra not in covered:
            raise
        raise missing_extra(error.name or "a package", extra) from error


def install_command(extra: str) -> str:
    """Say how to add an extra (or several, with commas between), depending on where this rdvla came from."""
    asked = set(extra.split(","))
    needs_client = bool(asked & NEED_CLIENT)
    folder = checkout()
    if folder is not None:
        return f"run pip install {f'-e {CLIENT} ' if needs_client else ''}-e '.[{extra}]' in {folder}"
    source = _source() or "rdvla"
    client = Path(source) / CLIENT  # of a checkout that was installed without -e
    return f"pip install {f'{str(client)!r} ' if needs_client and client.is_dir() else ''}'{source}[{extra}]'"


def checkout() -> Path | None:
    """Return the source checkout that this rdvla runs from; None if it is an installed package."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "pyproject.toml").is_file() and (folder / "src" / "rdvla").is_dir() else None


def _source() -> str | None:
    """Return the folder or wheel that rdvla was installed from; None for one from an index."""
    import json  # here, as few runs come so far
    from importlib import metadata
    from urllib.parse import unquote

    try:
        recorded = metadata.distribution("rdvla").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    url = "" if recorded is None else str(json.loads(recorded).get("url", ""))
    return unquote(url.removeprefix("file://")) if url.startswith("file://") else None


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the candidate closest to `name`, or "" when none is close."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""
