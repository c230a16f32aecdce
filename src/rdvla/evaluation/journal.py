"""`episodes.jsonl`: every finished episode as a line, so a killed evaluation can continue."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdvla.errors import ConfigError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.evaluation.records import Episode, ResultsError, build
from rdvla.evaluation.upgrade import upgrade_entry
from rdvla.files import CHECKSUM, errors_name, flush, json_checksum, read_object, write_atomically
from rdvla.rollout.jobs import Setting

RECORD = "evaluation.json"  # what a run directory's episodes are of
_PLAY_AGAIN = "remove the line to play that episode again"
Key = tuple[str, str, Setting, int]  # environment, task, setting, seed

# Options that may change when an evaluation continues: more of the same, and how fast it is done. Step limits
# are compared by their values in each environment.
EXTENDABLE = {
    *(
        "env",
        "tasks",
        "episodes",
        "stops",
        "execution",
        "workers",
        "ray",
        "ray_gpus",
        "ray_policies",
        "threads",
        "videos",
        "output",
        "policy",
    ),
    *("max_steps", "step_limits", "label", "allow_other_robot", "timing_seconds", "live", "rerun", "server"),
    *("record", "record_autonomous"),
}
KEPT = frozenset({"server_rules"})  # entries of older calls that a call without them leaves
# Entries that are null, and in older folders missing, if nobody knows: that is no difference. Before
# `batching` was an option, episodes may have been played in batches together, and a server has batches of its
# own.
UNKNOWN = frozenset({"policy_preparation", "batching"})


class Journal:
    """The finished episodes of a run directory."""

    def __init__(self, path: Path) -> None:
        """Open or create; drop a last line that a kill cut off, and episodes that are played again."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.episodes: dict[Key, Episode] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        ended: dict[Key, bytes] = {}
        for number, line in enumerate(whole, start=1):
            episode = _parse(line, f"{path} line {number}")
            if episode.error is None:
                self._remember(episode)
                ended[_key(episode)] = line
        kept = b"".join(ended.values())
        if kept != content:
            with write_atomically(path) as temporary:
                temporary.write_bytes(kept)
        self._file = path.open("ab")
        flush(path.parent)  # where a new file's name must survive a power cut

    def add(self, episode: Episode) -> None:
        """Keep an episode, on disk before this returns."""
        self._remember(episode)
        entry = json.loads(json.dumps(dataclasses.asdict(episode), allow_nan=False))
        line = json.dumps(entry | {CHECKSUM: json_checksum(entry)}).encode() + b"\n"
        with errors_name(self.path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def finished(self, key: Key) -> bool:
        """Whether an episode has an outcome; an exception is none: the episode is played again."""
        return key in self.episodes and self.episodes[key].error is None

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # of a full disk, which `add` has told already
            self._file.close()

    def _remember(self, episode: Episode) -> None:
        self.episodes[_key(episode)] = episode


def _key(episode: Episode) -> Key:
    return episode.env, episode.task, episode.setting, episode.seed


def same_run(
    folder: Path,
    config: EvaluationConfig,
    *,
    limits: Mapping[str, int],
    fingerprint: str,
    preparation: str | None = None,
    compared: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what the run is, for `RECORD`, after checking that an existing run directory holds the same.

    Environments, tasks, settings and episodes may be added or left out; at least one environment must stay.

    Args:
        folder: the run directory.
        config: the evaluation.
        limits: steps after which an episode ends, by environment.
        fingerprint: of the policy's weights.
        preparation: hash of its units and of how it fits images; None: not known, as in older folders.
        compared: what else must be the same, such as a server's own rules. What the directory does not tell
            counts as the same.

    Raises:
        ConfigError: the directory holds an evaluation of something else.
    """
    path = folder / RECORD
    now: dict[str, Any] = {
        "policy_fingerprint": fingerprint,
        "policy_preparation": preparation,
        **dataclasses.asdict(config),
        "limits": dict(limits),
        **(compared or {}),
    }
    if config.server:
        now["batching"] = None
    if path.exists():
        before = read_object(path)
        _check_options(folder, before, now)
        for name, value in (compared or {}).items():
            _check_same(folder, name, before.get(name, value), value)
        now = {name: before[name] for name in KEPT & before.keys()} | now
        now["batching"] = now["batching"] if before.get("batching") else None  # what is added has company
        now["limits"] = _all_limits(folder, before, limits)
    return now


def _check_options(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if bool(before.get("server")) != bool(now["server"]):
        raise ConfigError(
            f"{folder} holds an evaluation {'of a server' if before.get('server') else 'without a server'}: "
            "choose another output, or remove that folder"
        )
    defaults = {option.name: option.default for option in dataclasses.fields(EvaluationConfig)}
    for name in now.keys() - EXTENDABLE - KEPT - {"limits"}:
        if name in UNKNOWN and None in (before.get(name), now[name]):
            continue
        was = before.get(name, defaults.get(name))  # an option may be younger than the folder
        _check_same(folder, name, was, now[name])


def _check_same(folder: Path, name: str, was: Any, now: Any) -> None:
    if was != now:
        raise ConfigError(
            f"{folder} holds an evaluation with {name} {was!r}, "
            f"and this one has {now!r}: choose another output, or remove that folder"
        )


def _all_limits(folder: Path, before: Mapping[str, Any], limits: Mapping[str, int]) -> dict[str, int]:
    """The step limits of a folder's environments and the new limits, which have to agree."""
    # Folders of the first version have one environment and always name its limit.
    known: dict[str, int] = before.get("limits") or {before["env"]: before["max_steps"]}
    if not known.keys() & limits.keys():
        both = ",".join([*known, *limits])
        raise ConfigError(
            f"{folder} holds an evaluation in {', '.join(known)}, and this one is in {', '.join(limits)}: "
            f"choose another output, or --env {both} to add to it"
        )
    for env in known.keys() & limits.keys():
        if known[env] != limits[env]:
            raise ConfigError(
                f"{folder} holds an evaluation with at most {known[env]} steps in {env}, "
                f"and this one has {limits[env]}: choose another output, or remove that folder"
            )
    return {**known, **limits}


def _parse(line: bytes, where: str) -> Episode:
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{where} is damaged ({error}): {_PLAY_AGAIN}") from None
    # Lines of older versions have no checksum.
    if isinstance(values, dict) and values.pop(CHECKSUM, None) not in (None, json_checksum(values)):
        raise ResultsError(f"{where} is damaged (its CRC-32 differs): {_PLAY_AGAIN}")
    return build(Episode, upgrade_entry(values), where)
