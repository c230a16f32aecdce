"""Trackers get the figures of a run, through Accelerate's interface."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from rich.console import Console

from rdvla.errors import ConfigError, MissingExtraError, RDVLAError
from rdvla.training import Trainer, train
from rdvla.training.metrics import read_metrics
from tests.support.tiny_training import train_config

QUIET = Console(quiet=True)
SERVICES = ("wandb", "trackio")


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Packages `wandb` and `trackio` that keep what they are told, in place of the real ones."""
    told: list[tuple[str, Any]] = []
    code = (
        "told = []\n"
        "class Values:\n"
        "    def update(self, values, **_): told.append(('config', values))\n"
        "config = Values()\n"
        "class Run:\n"
        "    def log(self, values, step=None): told.append(('log', (step, values)))\n"
        "    def finish(self): told.append(('finish', None))\n"
        "def init(**settings):\n"
        "    told.append(('init', settings))\n"
        "    return Run()\n"
    )
    for name in SERVICES:
        (tmp_path / f"packages/{name}").mkdir(parents=True)
        (tmp_path / f"packages/{name}/__init__.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for name in SERVICES:
        monkeypatch.setattr(__import__(name), "told", told)
    yield told
    for name in SERVICES:
        sys.modules.pop(name)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_every_figure_and_the_options_under_the_runs_name(
    name: str, dataset: Path, tmp_path: Path, services: list[tuple[str, Any]]
) -> None:
    config = train_config(dataset, tmp_path / "my-run", trackers=(name,))
    train(config, console=QUIET)
    assert [kind for kind, _ in services[:2]] == ["init", "config"] and services[-1][0] == "finish"
    settings, options = services[0][1], services[1][1]
    assert settings["project"] == "rdvla" and settings["name"].startswith("my-run")
    assert options["optimizer.warmup_steps"] == 3 and options["policy.head.hidden_dim"] == 16
    logged = [content for kind, content in services if kind == "log"]
    lines = read_metrics(tmp_path / "my-run/metrics.jsonl")
    expected = [
        (line["step"], {f"{line['kind']}/{k}": v for k, v in line.items() if k not in ("step", "kind")})
        for line in lines
    ]
    assert logged == expected
    assert not (tmp_path / "my-run/tensorboard").exists()  # it was not asked for


def test_a_run_that_goes_on_is_the_same_run_at_the_service(
    dataset: Path, tmp_path: Path, services: list[tuple[str, Any]]
) -> None:
    config = train_config(dataset, tmp_path / "run", trackers=("wandb",), steps=6)
    for each in (config, replace(config, resume=True, steps=12)):
        train(each, console=QUIET)
    first, second = (content for kind, content in services if kind == "init")
    assert first["id"] == second["id"] == json.loads((tmp_path / "run/run.json").read_text())["id"]
    assert second["resume"] == "allow"
    train(replace(config, output_dir=str(tmp_path / "other")), console=QUIET)
    assert services[-1][0] == "finish" and [c for k, c in services if k == "init"][2]["id"] != first["id"]


def test_the_project_may_be_named(
    dataset: Path, tmp_path: Path, services: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "kitchen")
    train(train_config(dataset, tmp_path / "run", trackers=("wandb",), steps=4), console=QUIET)
    assert services[0][1]["project"] == "kitchen"


def test_a_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdvla.training.trackers.find_spec", lambda name: None)
    config = train_config(tmp_path / "no dataset", tmp_path / "run", trackers=("trackio",))
    with pytest.raises(MissingExtraError, match=r"trackio is not installed: .*\[trackio\]"):
        Trainer(config, console=QUIET)


def test_an_unknown_tracker_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trackers is 'wandbb'; .* Did you mean 'wandb'\?"):
        train_config(tmp_path, tmp_path, trackers=("wandbb",))


def test_a_service_that_refuses_ends_the_run_with_a_sentence(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(GeneralTracker):
        name, requires_logging_directory, tracker = "tensorboard", True, None

        def __init__(self, run_name: str, **settings: Any) -> None:
            super().__init__()

        def start(self) -> None:
            raise ValueError("no key")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Refusing)
    with pytest.raises(RDVLAError, match=r"the tracker tensorboard does not start: no key\. Log in"):
        train(train_config(dataset, tmp_path / "run"), console=QUIET)
