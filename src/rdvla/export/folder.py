"""The folder of an export, which takes its place once it is complete, and the report on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import new_folder, sole_user

if TYPE_CHECKING:
    from rdvla.export.differences import Difference

TOLERANCE = 1e-4  # of a float32 export, normalised units


@dataclass(frozen=True)
class Check:
    """How far an export and its policy are apart under one stop rule."""

    stop: str
    difference: float  # the largest of all actions, normalised units
    depths: tuple[int, ...]  # of the export
    expected: tuple[int, ...]  # of the policy

    def require(self) -> None:
        """Raise `RDVLAError` if a float32 export does not act as its policy."""
        if not self.difference <= TOLERANCE or self.depths != self.expected:  # NaN is not below either
            raise RDVLAError(
                f"the export does not act as the policy under {self.stop}: actions differ by up to "
                f"{self.difference:.1e} (at most {TOLERANCE:.0e} is expected), depths are "
                f"{list(self.depths)} instead of {list(self.expected)}. Nothing was written; please report it"
            )


@dataclass(frozen=True)
class Report:
    """What an export holds, and how near it is to its policy."""

    folder: Path
    precision: str
    sizes: dict[str, int]  # file -> bytes
    checks: list[Check]
    compared_on: str = "random features"  # what `checks` and differences are of
    differences: Sequence[Difference] = ()  # of the export from its policy in float32
    bfloat16: Sequence[Difference] = ()  # of the policy in float32 from what it runs in; none: it does


@contextmanager
def new_export(output: Path, *, described_by: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output`; an older export makes way.

    Args:
        output: the folder to make.
        described_by: name of the file that every such export has.

    Raises:
        RDVLAError: `output` holds something else, or another process writes there.
    """
    with sole_user(output):  # which gives an older export its name back, if a kill took it
        if output.exists() and not (output / described_by).exists():
            raise RDVLAError(f"{output} exists and is no export of this kind: name a new folder")
        with new_folder(output, replace=True) as folder:
            yield folder


def require_checks(checks: Sequence[Check], *, precision: str) -> None:
    """Raise `RDVLAError` if a float32 export failed a check; lower precisions may differ."""
    if precision == "fp32":
        for check in checks:
            check.require()


def check_precision(precision: str, known: Sequence[str]) -> None:
    """Raise `ConfigError` if a kind of export does not have the precision."""
    if precision not in known:
        raise ConfigError(f"precision must be one of {', '.join(known)}, got {precision!r}")


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
