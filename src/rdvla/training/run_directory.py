"""The folder of one run, and whether it may be started or resumed there.

config.yaml       the full configuration; its paths are as `rdvla.training.resuming` says
run.json          what the run began with: fingerprints of dataset and frozen weights, versions, processor,
                  threads; an id
metrics.jsonl     a line per logged step
tensorboard/      the same for TensorBoard
checkpoints/      the run resumes from these
cache/            frozen inputs, unless data.cache_dir names another folder
statistics.json   the units that the weights are trained in; a run that goes on keeps them
logs/             what each process but the first said, of a run in several
policy/           the trained policy (averaged weights) with training.json, from the first validation on
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rdvla.config import decode_config, encode_config, read_yaml
from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import check_writable, read_object, write_json
from rdvla.policy.files import STATISTICS_FILE, read_statistics, write_statistics
from rdvla.policy.run_folder import RUN_CONFIG, RUN_POLICY, RUN_RECORD, resume_command
from rdvla.processing import Statistics
from rdvla.training.arithmetic import differing
from rdvla.training.checkpoints import CheckpointStore
from rdvla.training.config import TrainConfig
from rdvla.training.rank_process import LOGS
from rdvla.training.resuming import (
    STARTED_IN,
    may_change,
    save_run_config,
    started_in,
)

RUN_ID = "id"  # in the record
CACHE = "cache"  # folder of a run's cached inputs, if it is not named
COMPUTED_WITH = "computed_with"  # in the record: what decides the last bits of results


class RunDirectory:
    """Paths of a run, and the checks before anything is written there.

    Attributes:
        resumes: whether a run is there that goes on.
        began_with: its configuration, from `begin` on; a new run's own.

    Raises:
        ConfigError: the folder cannot be written, is not empty and the run is not resumed, or the run there
            is longer than asked for.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = Path(config.output_dir)
        self.config_file = self.path / RUN_CONFIG
        self.record_file = self.path / RUN_RECORD
        self.checkpoints = self.path / "checkpoints"
        self.policy = self.path / RUN_POLICY
        self.cache = cache_folder(config)
        self.resumes = config.resume and self.config_file.exists()
        self.began_with = config
        check_writable(self.path, option="output_dir", folder=True)
        if self._is_taken(config):
            raise ConfigError(
                f"{self.path} is not empty; choose another output_dir, or go on with the run there "
                "by resume=true."
            )
        done = max(CheckpointStore(self.checkpoints).steps(), default=0)
        if config.steps < done:
            raise ConfigError(
                f"The run in {self.path} has done {done} updates, more than steps={config.steps}. Give "
                f"steps={done} or more, or start a new run in another output_dir."
            )

    @contextmanager
    def naming_what_moved(self, config: TrainConfig) -> Iterator[None]:
        """While a run that goes on opens its dataset and its first policy, say how to name another place."""
        try:
            yield
        except RDVLAError as error:
            named = {"dataset": config.dataset.split(","), "init_from": [config.init_from]}
            gone = [option for option, paths in named.items() if not all(Path(p).exists() for p in paths)]
            if not (self.resumes and gone):
                raise
            raise ConfigError(
                f"{error} The run in {self.path} names it: if it lies elsewhere now, give its place by "
                f"{' or '.join(f'--{option}' for option in gone)}."
            ) from error

    def begin(
        self,
        config: TrainConfig,
        origin: Mapping[str, Any],
        *,
        statistics: Statistics,
        older: Mapping[str, Any] | None = None,
        complete: Callable[[TrainConfig], TrainConfig] | None = None,
    ) -> None:
        """Write what the run begins with; of a run that goes on, check first that it is the same.

        Args:
            config: with nothing left open.
            origin: name -> fingerprint, for example of the dataset.
            statistics: that the policy normalises by.
            older: name -> the fingerprint that an older version would have recorded.
            complete: takes from the dataset what the configuration of an older version left open.

        Raises:
            ConfigError: the run there has another configuration, or began with something else. The message
                names what differs.
        """
        if self.resumes:
            self._check_same(config, complete)
            self._check_origin(origin, older or {})
        self.path.mkdir(parents=True, exist_ok=True)
        began = self._record() if self.resumes and self.record_file.exists() else {}
        place = {STARTED_IN: started_in(self.path), RUN_ID: uuid.uuid4().hex[:8]}
        write_json(
            self.record_file, place | began | dict(origin)
        )  # of an older version: as this one writes it
        write_statistics(self.path, statistics)
        save_run_config(self.path, config)

    @property
    def is_trained(self) -> bool:
        """Whether a run is there that goes on from a checkpoint."""
        return self.resumes and bool(CheckpointStore(self.checkpoints).steps())

    def statistics(self) -> Statistics | None:
        """Return what the weights of a run that goes on are normalised by; None: nothing is, or nothing says.

        An older version recorded them with its policy only, from the first validation on.

        Raises:
            RDVLAError: the record is damaged.
        """
        if not self.is_trained:
            return None
        places = [folder for folder in (self.path, self.policy) if (folder / STATISTICS_FILE).is_file()]
        return read_statistics(places[0]) if places else None

    def compared(self, now: Mapping[str, Any]) -> str:
        """Record what a new run computes with; say how this differs from what an earlier part computed with.

        Args:
            now: of this process, as `arithmetic` returns it.

        Returns:
            As `differing`; empty for a new run.
        """
        record = self._record()
        earlier = record.get(COMPUTED_WITH)
        if not self.is_trained or not isinstance(earlier, dict):
            write_json(self.record_file, {**record, COMPUTED_WITH: dict(now)})
            return ""
        return differing([earlier], now)

    def run_id(self) -> str:
        """Return the run's id, from `begin` on."""
        return str(self._record()[RUN_ID])

    def resume_command(self) -> str:
        """Return the command that goes on with this run."""
        return resume_command(self.path)

    def _record(self) -> dict[str, Any]:
        content = read_object(self.record_file)
        try:
            json.dumps(content, allow_nan=False)
        except ValueError as error:
            raise ConfigError(f"{self.record_file} is damaged: it holds NaN or infinity") from error
        return content

    def _is_taken(self, config: TrainConfig) -> bool:
        if self.resumes or not self.path.exists():
            return False
        # The cache may be filled ahead, and the other processes of this run write to their logs.
        if set(self.path.iterdir()) <= {self.cache, self.path / LOGS}:
            return False
        # A run that was killed before it wrote its configuration leaves nothing to compare with or to lose.
        return not config.resume or self.checkpoints.exists() or self.policy.exists()

    def _check_same(self, config: TrainConfig, complete: Callable[[TrainConfig], TrainConfig] | None) -> None:
        saved = read_yaml(self.config_file)
        # Decoded, so an option that did not exist when the run began counts as its default.
        self.began_with = decode_config(TrainConfig, saved, source=str(self.config_file))
        if complete is not None:
            self.began_with = complete(self.began_with)
        differing = differences(encode_config(self.began_with), encode_config(config), except_for=may_change)
        if differing:
            shown = "; ".join(f"{name} was {old!r}, is now {new!r}" for name, (old, new) in differing.items())
            raise ConfigError(
                f"The run in {self.path} cannot be resumed with another configuration: {shown}. "
                f"Resume it with {self.config_file}, or start a new run in another output_dir."
            )

    def _check_origin(self, origin: Mapping[str, Any], older: Mapping[str, Any]) -> None:
        if not self.record_file.exists():
            return
        began_with = self._record()
        # An older run did not record everything; an entry that it lacks counts as empty.
        accepted = {name: (value, older.get(name, value)) for name, value in origin.items()}
        differing = [name for name, values in accepted.items() if began_with.get(name, {}) not in values]
        if differing:
            raise ConfigError(
                f"The run in {self.path} cannot be resumed: {', '.join(differing)} changed since it began "
                f"(recorded in {self.record_file}). Start a new run in another output_dir."
            )


def cache_folder(config: TrainConfig) -> Path:
    """Return the folder of a run's cached inputs."""
    return Path(config.data.cache_dir) if config.data.cache_dir else Path(config.output_dir) / CACHE


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, except_for: Callable[[str], bool] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Return the dotted names of fields that differ, with both values.

    Args:
        old: nested plain values.
        new: the same.
        except_for: returns whether a field does not count, by its dotted name.
    """
    before, now = flatten(old), flatten(new)
    names = [name for name in dict.fromkeys((*before, *now)) if except_for is None or not except_for(name)]
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if _plain(before.get(name)) != _plain(now.get(name))
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested plain values by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _plain(value: Any) -> Any:
    # YAML has no tuples.
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
