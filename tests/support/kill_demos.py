"""Records demonstrations while being killed; started by test_killed_demonstrations.py."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import rdvla.data.formats.lerobot_v3.writer as writer_module
from rdvla.simulation.demonstrations import DemonstrationConfig, generate
from tests.support import toy_simulator  # noqa: F401  registers it
from tests.support.kill_events import killed_everywhere, run_in_child


def record(place: Path) -> None:
    """Record a dataset; what was interrupted goes on."""
    config = DemonstrationConfig(
        output=place / "demos",
        env="toy",
        episodes_per_task=1,
        image_size=32,
        steps_after_success=0,
        workers=1,
    )
    generate(config, show_progress=False)


def stage(place: Path) -> None:
    """Record all episodes, and no dataset of them yet."""

    def stopped(*_: object, **__: object) -> None:
        raise InterruptedError

    writer_module.assemble = stopped  # type: ignore[assignment]
    try:
        record(place)
    except InterruptedError:
        return
    raise AssertionError("the dataset was assembled")


def main(folder: Path, kind: str, every: int) -> None:
    """Kill the whole recording, or its assembly alone."""
    staged = folder / "staged"

    def prepare(place: Path) -> None:
        shutil.copytree(staged, place, dirs_exist_ok=True)

    staged.mkdir()
    if kind == "assembly":
        assert run_in_child(stage, staged) == 0
    found = killed_everywhere(record, folder, prepare=prepare, every=every)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
