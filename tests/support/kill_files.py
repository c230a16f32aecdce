"""Makes and replaces folders and files while being killed; started by test_leftovers.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rdvla.files import new_folder, write_json
from rdvla.locks import sole_user
from tests.support.kill_events import killed_everywhere


def make(place: Path) -> None:
    """Make a folder, or put it in the place of an older one."""
    with new_folder(place / "made", replace=True) as folder:
        (folder / "inner").mkdir()
        for name in ("a.json", "inner/b.json"):
            write_json(folder / name, {"new": name})


def make_older(place: Path) -> None:
    """Make the folder that is to be replaced, with other files."""
    with new_folder(place / "made") as folder:
        for name in ("a.json", "c.json", "d.json"):
            write_json(folder / name, {"old": name})


def one_is_whole(place: Path) -> None:
    """Check what readers find after a kill: an old folder or a new one, whole; or a gap, which is mended."""
    found = sorted(path.name for path in place.glob("made/*"))
    assert found in ([], ["a.json", "c.json", "d.json"], ["a.json", "inner"]), found
    if found == []:
        assert list(place.glob(".made.*.old")), "the older one is lost"


def write(place: Path) -> None:
    """Write files of a run that one process works on."""
    with sole_user(place / "run"):
        for name in ("results.json", "below/latest.json"):
            write_json(place / "run" / name, {"name": name})


SCENARIOS = {
    "make": {"work": make},
    "replace": {"work": make, "prepare": make_older, "between": one_is_whole},
    "write": {"work": write},
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(killed_everywhere(folder=Path(sys.argv[2]), **SCENARIOS[sys.argv[1]])))
