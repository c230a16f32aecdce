"""LeRobot's format v3.0 for reading."""

from __future__ import annotations

from pathlib import Path

from rdvla.data.formats.base import HubFiles
from rdvla.data.formats.lerobot.files import INFO_PATH, DatasetFiles
from rdvla.data.formats.lerobot.info import LeRobotInfo
from rdvla.data.formats.lerobot.reader import LeRobotReader
from rdvla.data.formats.lerobot_v3.episodes import read_episodes
from rdvla.data.formats.lerobot_v3.layout import CODEBASE_VERSION
from rdvla.data.formats.lerobot_v3.metadata import read_tasks
from rdvla.errors import DatasetError


class LeRobotV3:
    """LeRobot's format v3.0: parquet and MP4 files of many episodes each, described in `meta/`.

    Later versions v3.x are read too, with a note.
    """

    name = "LeRobot v3.0"
    hub = HubFiles(
        tag=CODEBASE_VERSION,
        markers=(INFO_PATH,),
        content=("meta/**/*.json", "meta/*.json", "**/*.parquet", "**/*.mp4"),
    )

    def rejects(self, path: Path) -> str | None:
        """Return why the dataset is not of this format; None: it is."""
        try:
            version = DatasetFiles(path).json(INFO_PATH).get("codebase_version")
        except DatasetError as error:
            return str(error)
        is_known = isinstance(version, str) and version.split(".")[0] == "v3"
        return None if is_known else f"it has format version {version!r}"

    def open(self, path: Path) -> LeRobotReader:
        """Read `meta/`, and find the episodes in the data files.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        files = DatasetFiles(path)
        info = LeRobotInfo.read(files)
        records, notes = read_episodes(info)
        version = info.content["codebase_version"]
        if version != CODEBASE_VERSION:
            notes.insert(0, f"{path} has format version {version}; it is read as {CODEBASE_VERSION}")
        return LeRobotReader(info, dict(enumerate(read_tasks(files))), records, notes)
