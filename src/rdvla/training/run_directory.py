"""The folder of one run, and whether it may be started or resumed there.

config.yaml       the full configuration
run.json          what the run began with: fingerprints of dataset and frozen weights, versions
metrics.jsonl     a line per logged step
tensorboard/      the same for TensorBoard
checkpoints/      the run resumes from these
cache/            frozen inputs, unless data.cache_dir names another folder
policy/           the trained policy (averaged weights) with training.json, when the run is done
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

import rdvla
from rdvla.config import decode_config, encode_config, save_config
from rdvla.errors import ConfigError
from rdvla.files import new_folder, read_json, write_json
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.training.config import TrainConfig

# May differ between a run and its resumption.
NOT_COMPARED = ("output_dir", "resume", "resume_from_previous")


class RunDirectory:
    """Paths of a run, and the checks before anything is written there.

    Raises:
        ConfigError: the folder is not empty and the run is not resumed, or the run there had another
            configuration. The message names the fields that differ, with both values.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = Path(config.output_dir)
        self.config_file = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.policy = self.path / "policy"
        self.cache = Path(config.data.cache_dir) if config.data.cache_dir else self.path / "cache"
        if self.config_file.exists() and config.resume:
            self._check_same(config)
        elif self.path.exists() and any(self.path.iterdir()) and not self._killed_at_once(config):
            raise ConfigError(
                f"{self.path} is not empty; choose another output_dir, or go on with the run there "
                "by resume=true."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        save_config(self.config_file, replace(config, resume=False, resume_from_previous=False))

    def check_origin(self, origin: Mapping[str, Any], *, older: Mapping[str, Any] | None = None) -> None:
        """Record what the run begins with, or, in a resumed run, check that it is still the same.

        Args:
            origin: name -> fingerprint, for example of the dataset.
            older: name -> the fingerprint that an older version would have recorded.

        Raises:
            ConfigError: something differs; it is named.
        """
        file = self.path / "run.json"
        if not file.exists():
            write_json(file, dict(origin))
            return
        began_with = read_json(file)
        # An older run did not record everything; an entry that it lacks counts as empty.
        accepted = {name: (value, (older or {}).get(name, value)) for name, value in origin.items()}
        differing = [name for name, values in accepted.items() if began_with.get(name, {}) not in values]
        if differing:
            raise ConfigError(
                f"The run in {self.path} cannot be resumed: {', '.join(differing)} changed since it began "
                f"(recorded in {file}). Start a new run in another output_dir."
            )

    def resume_command(self) -> str:
        """Return the command that goes on with this run."""
        return f"rdvla train --config {shlex.quote(str(self.config_file))} --resume true"

    def _killed_at_once(self, config: TrainConfig) -> bool:
        # A run that was killed before it wrote its configuration leaves nothing to compare with or to lose.
        return config.resume and not self.checkpoints.exists() and not self.policy.exists()

    def _check_same(self, config: TrainConfig) -> None:
        saved = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        # Decoded, so an option that did not exist when the run began counts as its default.
        began_with = decode_config(TrainConfig, saved, source=str(self.config_file))
        differing = differences(encode_config(began_with), encode_config(config))
        if differing:
            shown = "; ".join(f"{name} was {old!r}, is now {new!r}" for name, (old, new) in differing.items())
            raise ConfigError(
                f"The run in {self.path} cannot be resumed with another configuration: {shown}. "
                f"Resume it with {self.config_file}, or start a new run in another output_dir."
            )


def save_policy(policy: RDVLAPolicy, folder: Path, *, provenance: Mapping[str, Any]) -> None:
    """Save a policy with a record of its training; the folder appears whole and replaces an older one.

    Args:
        policy: with the weights to save.
        folder: for `RDVLAPolicy.from_pretrained`.
        provenance: goes into training.json, together with versions.
    """
    versions = {"rdvla": rdvla.__version__, "torch": torch.__version__, "python": platform.python_version()}
    policy.records = {TRAINING: {**provenance, "versions": versions}}
    with new_folder(folder, replace=True) as temporary:
        policy.save_pretrained(temporary)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted names of fields that differ, with both values, leaving out `NOT_COMPARED`."""
    before, now = _flatten(old), _flatten(new)
    names = [name for name in dict.fromkeys((*before, *now)) if name.split(".")[0] not in NOT_COMPARED]
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if _plain(before.get(name)) != _plain(now.get(name))
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _plain(value: Any) -> Any:
    # YAML has no tuples.
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
