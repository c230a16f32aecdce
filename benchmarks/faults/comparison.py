"""Compares what two runs of a command left: every file, apart from times and names that are drawn anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# Keys of JSON objects whose values are times, or are drawn anew for every run.
VOLATILE = {"seconds", "training_seconds", "finished", "ms_per_step", "id", "training.json"}
VOLATILE |= {"samples_per_second", "tflops", "utilisation"}
VOLATILE |= {"crc32"}  # of such values; the files themselves are compared
LOGS = {"tensorboard", "logs"}  # folders whose files are named by time or process
UNORDERED = {"episodes.jsonl"}  # lines come as episodes end


def contents(folder: Path) -> dict[str, Any]:
    """Return path below `folder` -> content without times, or a hash of it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not LOGS & set(relative.parts):
            found[str(relative)] = _content(path)
    return found


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each file that is missing, too many, or different."""
    said = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    said += [f"{name} was left behind" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if expected[name] != found[name]:
            said.append(f"{name} differs{_where(expected[name], found[name])}")
    return said


def _content(path: Path) -> Any:
    with suppress(ValueError):  # half a file is compared by its bytes
        if path.suffix == ".json":
            return _steady(json.loads(path.read_text(encoding="utf-8")))
        if path.suffix == ".jsonl":
            lines = [_steady(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
            return sorted(lines, key=_key) if path.name in UNORDERED else lines
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(each) for name, each in value.items() if name not in VOLATILE}
    return [_steady(each) for each in value] if isinstance(value, list) else value


def _key(line: Any) -> str:
    return json.dumps(line, sort_keys=True)


def _where(expected: Any, found: Any) -> str:
    """Return where two values differ first, such as `: summary[0].successes is 2, was 3`."""
    path = ""
    while type(expected) is type(found) and isinstance(expected, dict | list):
        if isinstance(expected, dict):
            keys = sorted(expected.keys() | found.keys())
            inside = next(key for key in keys if expected.get(key, ...) != found.get(key, ...))
            path += f".{inside}"
            expected, found = expected.get(inside, "missing"), found.get(inside, "missing")
        elif len(expected) != len(found):
            return f": {path or 'it'} has {len(found)} entries, had {len(expected)}"
        else:
            pairs = zip(expected, found, strict=True)
            inside = next(i for i, (old, new) in enumerate(pairs) if old != new)
            path += f"[{inside}]"
            expected, found = expected[inside], found[inside]
    if isinstance(expected, str) and len(expected) == 2 * hashlib.sha256().digest_size:
        return f": {path.lstrip('.')}" if path else ""
    return f": {path.lstrip('.')} is {str(found)[:100]}, was {str(expected)[:100]}"
