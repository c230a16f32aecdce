"""The trials of a sweep: which there are, and the options of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mergedeep

from rdvla.config.load import complete_config, read_config
from rdvla.errors import ConfigError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.sweep.config import SweepConfig
from rdvla.training.config import TrainConfig


@dataclass(frozen=True)
class Trial:
    """A training run of a sweep."""

    setting: str  # variant and values, for people; the same for all seeds
    seed: int
    folder: Path
    options: dict[str, Any] = field(hash=False)  # nested, of rdvla train, without output_dir

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.folder.name

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def evaluation(self) -> Path:
        """The evaluation's run directory."""
        return self.folder / "evaluation"


def plan(config: SweepConfig) -> list[Trial]:
    """Return all trials, settings in the order of the file, each with all seeds.

    Raises:
        ConfigError: the options of a trial, or of the evaluation, are no configuration; the trial is named.
    """
    shared, trials = _shared(config.train), []
    for variant, options in (config.variants or {"": {}}).items():
        for values in itertools.product(*config.over.values()):
            chosen = dict(zip(config.over, values, strict=True))
            for seed in config.seeds:
                given = mergedeep.merge({}, shared, _nested(options), _nested(chosen), {"seed": seed})
                folder = Path(config.output) / "trials" / _folder_name(variant, chosen, seed)
                varied = {name: value for name, value in chosen.items() if len(config.over[name]) > 1}
                trials.append(Trial(_setting(variant, varied), seed, folder, dict(given)))
    for trial in trials:
        _check(trial)
    _check_different(trials)
    if config.evaluation:
        check_evaluation(config, trials[0])
    return trials


def training_options(trial: Trial) -> dict[str, Any]:
    """Return every option of a trial's `rdvla train`, nested."""
    return {**trial.options, "output_dir": str(trial.run), "resume": True}


def evaluation_options(config: SweepConfig, trial: Trial) -> dict[str, Any]:
    """Return every option of a trial's `rdvla eval`, nested."""
    places = {"policy": str(trial.run / "policy"), "output": str(trial.evaluation), "label": trial.name}
    return {**config.evaluation, **places}


def check_evaluation(config: SweepConfig, trial: Trial) -> None:
    """Raise `ConfigError` if the options of the evaluation are no configuration."""
    complete_config(EvaluationConfig, evaluation_options(config, trial), source="evaluation: ")


def _check(trial: Trial) -> None:
    complete_config(TrainConfig, training_options(trial), source=f"trial {trial.name}: ")


def _check_different(trials: list[Trial]) -> None:
    seen: dict[Path, Trial] = {}
    for trial in trials:
        if trial.folder in seen:
            raise ConfigError(
                f"two trials would share the folder {trial.folder}: {seen[trial.folder].setting} and "
                f"{trial.setting}; give their variants other names"
            )
        seen[trial.folder] = trial


def _shared(train: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(train)
    file = options.pop("config", None)
    return dict(mergedeep.merge({}, read_config(TrainConfig, str(file)) if file else {}, _nested(options)))


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"a.b": 1}`` as ``{"a": {"b": 1}}``; names may be written either way."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = str(name).split(".")
        entry: Any = _nested(value) if isinstance(value, Mapping) else value
        for group in (last, *reversed(groups)):
            entry = {group: entry}
        nested = dict(mergedeep.merge(nested, entry))
    return nested


def _setting(variant: str, chosen: Mapping[str, Any]) -> str:
    values = [f"{name} {value}" for name, value in chosen.items()]
    return ", ".join([variant] * bool(variant) + values) or "all alike"


def _folder_name(variant: str, chosen: Mapping[str, Any], seed: int) -> str:
    values = [f"{name.rsplit('.', 1)[-1]}={value}" for name, value in chosen.items()]
    words = [variant] * bool(variant) + values + [f"seed={seed}"]
    return re.sub(r"[^A-Za-z0-9._+=-]+", "_", "-".join(words))
