"""Damages files in every way that is cheap to make, and says what a reader did about it."""

from __future__ import annotations

import json
import operator
import random
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdvla.errors import RDVLAError

SECONDS = 60  # that a reader may take; longer counts as a hang
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 3.5, 1e30, -1e300, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd",
    [], [[1]], {}, {"a": 1}, "\u00e9" * 300,
)  # fmt: skip
Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Mutation:
    """A file below a folder, and what it holds then."""

    file: str
    content: bytes
    what: str


def random_mutations(folder: Path, files: list[str], *, count: int, seed: int) -> Iterator[Mutation]:
    """Yield flipped bits, cut ends and blanked stretches, in turn over the files."""
    draw = random.Random(seed)
    for number in range(count):
        file = files[number % len(files)]
        content = bytearray((folder / file).read_bytes())
        place = draw.randrange(len(content))
        kind = draw.choice(("flip", "flip", "cut", "blank"))
        if kind == "flip":
            content[place] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del content[place:]
        else:
            content[place : place + 16] = bytes(len(content[place : place + 16]))
        yield Mutation(file, bytes(content), f"{kind} at {place}")


def json_mutations(folder: Path, files: list[str]) -> Iterator[Mutation]:
    """Yield every entry of JSON files with every value of `WRONG`, and without it."""
    for file in files:
        text = (folder / file).read_text()
        for path in _paths(json.loads(text)):
            for value in (*WRONG, ...):
                changed = json.loads(text)
                node = changed
                for key in path[:-1]:
                    node = node[key]
                if value is ...:
                    del node[path[-1]]
                elif node[path[-1]] == value:
                    continue
                else:
                    node[path[-1]] = value
                yield Mutation(file, json.dumps(changed).encode(), f"{path} = {value!r:.40}")


def outcome(folder: Path, mutation: Mutation, read: Read, *, place: Path, same: Callable[[Any], bool]) -> str:
    """Return what reading a mutated copy of a folder ends in.

    Returns:
        "named": an error of ours that names the file or the folder; "same": the result of the whole folder;
        "unnamed": another error of ours; "other": another result; "hang"; or the kind of any other exception.
    """
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    (place / mutation.file).write_bytes(mutation.content)
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read(place)
    except RDVLAError as error:
        names = (Path(mutation.file).name, place.name)
        return "named" if any(name in str(error) for name in names) else "unnamed"
    except TimeoutError:
        return "hang"
    except Exception as error:  # whatever it is, it is counted
        return type(error).__name__
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "same" if same(found) else "other"


def tally(
    folder: Path,
    mutations: Iterator[Mutation],
    read: Read,
    *,
    place: Path,
    agree: Callable[[Any, Any], bool] = operator.eq,
) -> tuple[Counter[str], list[str]]:
    """Return how many mutations end in which outcome, and those that are neither named nor the same."""
    expected = read(folder)
    counts: Counter[str] = Counter()
    lines = []
    for mutation in mutations:
        found = outcome(folder, mutation, read, place=place, same=lambda other: agree(other, expected))
        counts[found] += 1
        if found not in ("named", "same"):
            lines.append(f"{found}: {mutation.file}: {mutation.what}")
    return counts, lines


def _paths(value: Any, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for number, (key, inner) in enumerate(items):
        if number < 12:  # long lists have entries alike
            yield (*start, key)
            yield from _paths(inner, (*start, key))


def _too_long(*_: object) -> None:
    raise TimeoutError
