"""`episodes.jsonl`: every finished episode as one line, so that a killed evaluation can go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rdvla.errors import ConfigError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.evaluation.results import Episode, ResultsError, episode_from_dict
from rdvla.evaluation.setting import Setting
from rdvla.files import read_json, write_json

Key = tuple[str, Setting, int]  # task, setting, seed

# What may change when an evaluation goes on: more of the same, and how fast it is done.
EXTENDABLE = {"tasks", "episodes", "rules", "execution", "workers", "threads", "videos", "output", "policy"}


class Journal:
    """The finished episodes of a run directory."""

    def __init__(self, path: Path) -> None:
        """Open or create; a last line that was cut off by a kill is dropped."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.episodes: dict[Key, Episode] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.decode().splitlines(), start=1):
            self._remember(_parse(line, f"{path} line {number}"))
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def add(self, episode: Episode) -> None:
        """Keep an episode, on disk before this returns."""
        self._remember(episode)
        self._file.write(json.dumps(dataclasses.asdict(episode), allow_nan=False).encode() + b"\n")
        self._file.flush()

    def finished(self, key: Key) -> bool:
        """Whether an episode has an outcome; one that an exception ended is played again."""
        return key in self.episodes and self.episodes[key].error is None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _remember(self, episode: Episode) -> None:
        self.episodes[episode.task, episode.setting, episode.seed] = episode


def check_same_run(folder: Path, config: EvaluationConfig, fingerprint: str) -> None:
    """Write what the run is, or check that a run directory that is there already holds the same.

    Raises:
        ConfigError: the directory holds an evaluation of something else.
    """
    path = folder / "evaluation.json"
    now: dict[str, Any] = {"policy_fingerprint": fingerprint, **dataclasses.asdict(config)}
    if path.exists():
        before = read_json(path)
        for name in now.keys() - EXTENDABLE:
            if before.get(name) != now[name]:
                raise ConfigError(
                    f"{folder} holds an evaluation with {name} {before.get(name)!r}, "
                    f"and this one has {now[name]!r}: choose another output, or remove that folder"
                )
    write_json(path, now)


def _parse(line: str, place: str) -> Episode:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ResultsError(
            f"{place} is damaged ({error.msg}): remove the line to play that episode again"
        ) from None
    return episode_from_dict(values, place)
