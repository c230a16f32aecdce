"""Kills a piece of work with SIGKILL at every one of its file-system events, and repeats it each time.

Start it as a process of its own, which imports everything and computes nothing, so forking is cheap and safe.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate"}
WAIT_SECONDS = 120


def killed_everywhere(
    work: Callable[[Path], None],
    folder: Path,
    *,
    prepare: Callable[[Path], None] = lambda _: None,
    between: Callable[[Path], None] = lambda _: None,
    every: int = 1,
) -> dict[str, list[int]]:
    """Kill `work` at each event in a folder of its own, and repeat it there.

    Args:
        work: called with the folder.
        folder: holds a folder for each event, which is removed if all is well.
        prepare: what comes before, undisturbed.
        between: called after a kill; raises if what is there must not be.
        every: kill at every n-th event only.

    Returns:
        "killed": the events; "different": those after which the repetition's files were not those of an
        undisturbed run; "failed": those after which it failed.
    """
    expected = folder / "undisturbed"
    _prepare(expected, prepare)
    assert run_in_child(work, expected) == 0, "the work fails undisturbed"
    found: dict[str, list[int]] = {"killed": [], "different": [], "failed": []}
    event = 1
    while True:
        place = folder / f"event-{event}"
        _prepare(place, prepare)
        code = run_in_child(work, place, event=event)
        if code == 0:
            return found
        assert code == -signal.SIGKILL, f"the work ended with {code} before event {event}"
        found["killed"].append(event)
        if run_in_child(between, place) != 0 or run_in_child(work, place) != 0:
            found["failed"].append(event)
        elif content(place) != content(expected):
            found["different"].append(event)
        else:
            shutil.rmtree(place)
        event += every


def content(folder: Path) -> dict[str, bytes | None]:
    """Return every file with its bytes, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def _prepare(place: Path, prepare: Callable[[Path], None]) -> None:
    place.mkdir(parents=True)
    assert run_in_child(prepare, place) == 0, "the preparation fails"


def run_in_child(work: Callable[[Path], None], place: Path, *, event: int = 0) -> int:
    """Run the work in a forked process that dies at an event (0: at none); return its exit code."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(WAIT_SECONDS)
        try:
            if event:
                _die_at(event, place)
            work(place)
        except BaseException as error:
            sys.stderr.write(f"{place.name}: {type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die_at(event: int, place: Path) -> None:
    left = [event]

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name not in EVENTS or not _is_below(arguments[0], place):
            return
        if name == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _is_below(path: Any, place: Path) -> bool:
    # Removing a tree names what is in it by relative paths.
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    text = os.fsdecode(path)
    return text.startswith(str(place)) or not Path(text).is_absolute()
