"""The configuration of a sweep."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from rdvla.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # of a variant: it becomes the name of a folder
OURS = {
    "train": ("seed", "output_dir", "resume", "resume_from_previous"),
    "evaluation": ("policy", "output", "server", "label"),
}


@dataclass(frozen=True)
class SweepConfig:
    """Training runs that differ in named variants, in the values of options, and in the seed.

    Every variant is trained with every combination of the values in `over` and with every seed.

    Raises:
        ConfigError: a value is out of range, or an option belongs to the sweep itself.
    """

    output: str  # folder of the trials, sweep.json and report.html; the same command goes on there
    train: dict[str, Any]  # options of rdvla train that all trials share; config: a file, or one that ships
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> what differs; 1st: baseline
    over: dict[str, list[Any]] = field(default_factory=dict)  # option, as optimizer.learning_rate -> values
    seeds: tuple[int, ...] = (0,)  # of the training; trials with the same seed are compared in pairs
    evaluation: dict[str, Any] = field(default_factory=dict)  # options of rdvla eval; empty: train only
    workers: int = 1  # trials at the same time; with several GPUs they take turns

    def __post_init__(self) -> None:
        for name in ("train", "variants", "over", "evaluation"):
            # As files hold them: what a program gives may have tuples and paths.
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name), default=str)))
        if not self.output:
            raise ConfigError("output is empty: name a folder, such as runs/sweep")
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds must be different numbers from 0 on, got {list(self.seeds)}")
        for name, options in self.variants.items():
            if not NAME.fullmatch(name):
                raise ConfigError(f"variants: {name!r} names no folder: take letters, digits and -_.+")
            self._check_free(f"variants.{name}", options, OURS["train"])
        for name, values in self.over.items():
            if not values or any(value in values[:place] for place, value in enumerate(values)):
                raise ConfigError(f"over.{name} must list different values, got {values}")
        self._check_free("over", {str(name).split(".")[0]: None for name in self.over}, OURS["train"])
        self._check_free("train", self.train, OURS["train"])
        self._check_free("evaluation", self.evaluation, OURS["evaluation"])

    @staticmethod
    def _check_free(where: str, options: dict[str, Any], ours: tuple[str, ...]) -> None:
        taken = [name for name in options if str(name).split(".")[0] in ours]
        if taken:
            better = ": list seeds instead" if "seed" in taken else ""
            raise ConfigError(f"{where}.{taken[0]} is chosen by the sweep{better}; leave it out")
