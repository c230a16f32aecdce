"""`rdvla report`."""

from __future__ import annotations

from pathlib import Path


def run(results: list[str], *, output: Path | None = None) -> None:
    """Turn the results of one or more evaluations into one self-contained HTML page.

    Args:
        results: results.json, or the run directory that holds it; the others are compared with the first.
            NAME=RUN names a line of the charts, NAME=RUN,RUN makes several runs one line.
        output: page to write (default: report.html next to the first results.json).
    """
    from rdvla.evaluation.lines import Source
    from rdvla.files import check_writable

    first = Source.parse(results[0]).paths[0]
    page = output or (first if first.is_dir() else first.parent) / "report.html"
    check_writable(page, option="--output")
    from rdvla.evaluation import write_report

    print(f"written: {write_report(results, page)}")
    print("next: open it in a browser")
