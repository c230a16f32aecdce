"""The report: results turned into one HTML page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdvla.errors import optional
from rdvla.files import write_atomically


def write_report(results: Sequence[str | Path], output: Path | str) -> Path:
    """Write one self-contained page from one or several results files (or run directories).

    With several, the others are compared with the first file's policy. ``NAME=RUN`` names a policy,
    ``NAME=RUN,RUN`` makes several runs one line; see `rdvla.evaluation.lines`.

    Raises:
        ResultsError: a file breaks the schema, files named together hold the same episodes, or all are empty.
        MissingExtraError: a package of the extra `report` is not installed.
    """
    with optional("report"):
        from rdvla.evaluation.report.page import render_page
    page = render_page(results)
    output = Path(output)
    with write_atomically(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output
