"""Files next to a policy's weights: how it was trained, and how it did."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdvla.errors import RDVLAError
from rdvla.files import CHECKSUM, json_checksum, read_json, write_json

TRAINING = "training.json"  # written by `rdvla train`
RESULTS = "results.json"  # from `rdvla eval`, if someone has put it there; docs/results-schema.md

# "/a/b", "~/a/b" and "C:\a\b", also within a command line or a list; not "a/b" and not "https://a/b".
_ABSOLUTE = re.compile(r"(?<![\w:/.\\~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s,'\"/\\]+[/\\])*([^\s,'\"/\\]+)")

Records = dict[str, Any]  # file name -> content


def read_records(folder: Path) -> Records:
    """Read the records in a policy's folder; none has to be there.

    Raises:
        RDVLAError: one is damaged; the message names it.
    """
    read = {TRAINING: read_json, RESULTS: read_results}
    return {name: read[name](folder / name) for name in read if (folder / name).is_file()}


def read_results(path: Path) -> Any:
    """Read the content of a results file, without the checksum that it is compared with.

    Raises:
        RDVLAError: the file is missing or damaged; the message names it.
    """
    content = read_json(path)
    # Files of older versions have no checksum.
    if isinstance(content, dict) and content.pop(CHECKSUM, None) not in (None, json_checksum(content)):
        raise RDVLAError(
            f"{path} is damaged or was changed (its CRC-32 differs): delete it and give the same rdvla eval "
            f"again, which plays no episode twice; if you changed it, delete its entry {CHECKSUM!r}"
        )
    return content


def trained_instructions(records: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the instructions that a policy was trained on; empty if its records do not say."""
    training = records.get(TRAINING)
    found = training.get("instructions") if isinstance(training, Mapping) else None
    return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list | tuple) else ()


def write_records(folder: Path, records: Mapping[str, Any]) -> None:
    """Write the records next to the weights, and remove those of an older policy."""
    for name in (TRAINING, RESULTS):
        if name not in records:
            (folder / name).unlink(missing_ok=True)
    for name, content in records.items():
        write_json(folder / name, content)


def without_places(content: Any) -> Any:
    """Return the same JSON with absolute paths cut to their last component, for strangers to read."""
    if isinstance(content, dict):
        return {name: without_places(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_places(value) for value in content]
    return _ABSOLUTE.sub(r"\1", content) if isinstance(content, str) else content


def results_summary(results: Any, *, weights: str) -> list[dict[str, Any]]:
    """Return the summary of a results file, which must be about these weights.

    Args:
        results: content of `RESULTS`.
        weights: the policy's `fingerprint`.

    Raises:
        RDVLAError: it is no results file of this version, or another policy's.
    """
    try:
        measured, summary = results["meta"]["policy"]["fingerprint"], results["summary"]
    except (KeyError, TypeError) as error:
        raise RDVLAError(
            f"{RESULTS} lacks {error}: give the file that this version of `rdvla eval` writes"
        ) from error
    if measured != weights:
        raise RDVLAError(
            f"{RESULTS} was measured with other weights ({measured}, here {weights}): "
            "evaluate this policy, or take them out of policy.records"
        )
    return list(summary)
