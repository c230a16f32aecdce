"""`rdvla data check`."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdvla.data.check.findings import Report, Severity

COLOURS: dict[Severity, str] = {"error": "red", "warning": "yellow", "note": "cyan"}


def run(dataset: Path, *, json: bool = False, decode_all: bool = False) -> int:
    """Find what is wrong with a dataset, where, and what mends it; it need not be readable.

    The exit code is 1 if there are errors, 0 if there are none.

    Args:
        dataset: folder of a LeRobot dataset (v2.0, v2.1 or v3.0).
        json: print the findings as JSON.
        decode_all: decode every frame of every video, not only some.
    """
    from rdvla.errors import optional

    with optional("data"):
        from rdvla.data.check.check import check_dataset

    report = check_dataset(dataset, decode_all=decode_all)
    if json:
        print(dumps(report.to_dict(), indent=2))
    else:
        _show(report)
    return 1 if report.count("error") else 0


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    version = f"LeRobot {report.version}" if report.version else "unknown version"
    size = f"{report.episodes} episodes, {report.frames} frames"
    console.print(f"{report.root}: {version}, {size}", soft_wrap=True)
    for finding in report.findings:
        colour = COLOURS[finding.severity]
        place = f" {finding.place}:" if finding.place else ""
        head = f"[{colour}]{finding.severity:<8}[/]{escape(finding.check)}:"
        console.print(f"{head}{escape(place)} {escape(finding.message)}", soft_wrap=True)
        if finding.fix:
            console.print(f"        [dim]fix: {escape(finding.fix)}[/]", soft_wrap=True)
    counts = ", ".join(_counted(report.count(severity), severity) for severity in COLOURS)
    console.print(f"{counts}. Next: rdvla data inspect {report.root}", soft_wrap=True)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
