"""Impossible numbers and misspelt cameras get one sentence, before any policy or dataset is opened."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rdvla import cli
from rdvla.config import Number, decode_config
from rdvla.control import Stop, parse_stop
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.simulation.demonstrations.config import DemonstrationConfig
from rdvla.simulation.environment import check_cameras
from rdvla.simulation.registry import task_suite
from tests.support.tiny_training import tiny_policy, write_dataset

EVAL = ["eval", "--policy=nothing", "--output=run"]
CALIBRATE = ["calibrate", "nothing", "nothing"]
CONVERT = ["convert", "nothing", "new"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*EVAL, "--episodes=0"], "episodes must be at least 1, got 0"),
        ([*EVAL, "--episodes=-3"], "episodes must be at least 1, got -3"),
        ([*EVAL, "--episodes=2.5"], "option 'episodes': expected int, got 2.5"),
        ([*EVAL, "--episodes=.inf"], "option 'episodes': expected int, got inf"),
        ([*EVAL, "--seed=-1"], "seed must be at least 1000000, got -1"),
        ([*EVAL, "--seed=4294967295"], "the last episode's seed must be at most 4294967295, got 4294967319"),
        ([*EVAL, "--max_steps=0"], "max_steps must be at least 1, got 0"),
        ([*EVAL, "--workers=0"], "workers must be at least 1, got 0"),
        ([*EVAL, "--threads=-2"], "threads must be at least 1, got -2"),
        ([*EVAL, "--videos=-1"], "videos must not be negative, got -1"),
        ([*EVAL, "--video_fps=-20"], "video_fps must be at least 1, got -20"),
        ([*EVAL, "--stops=[0]"], "depth must be at least 1"),
        ([*EVAL, "--stops=[100000]"], "fixed: the depth must be at most 10000, got 100000"),
        ([*EVAL, "--stops=['action_change:nan']"], "threshold must be positive and finite, got nan"),
        ([*EVAL, "--execution=['0']"], "actions must be at least 1, got 0"),
        (["demos", "--episodes_per_task=0"], "episodes_per_task must be at least 1, got 0"),
        (["demos", "--seed=-1"], "seed must be 0 or more, got -1"),
        (["demos", "--image_size=-4"], "image_size must be at least 1, got -4"),
        (["demos", "--camera_stride=0"], "camera_stride must be at least 1, got 0"),
        (["demos", "--noise_levels=[.nan]"], "noise_levels must be finite and 0 or more, got [nan]"),
        (["demos", "--noise_levels=[inf]"], "noise_levels must be finite and 0 or more, got [inf]"),
        (["demos", "--burst_probability=1.5"], "burst_probability must be from 0 to 1, got 1.5"),
        (["demos", "--burst_probability=.nan"], "burst_probability must be from 0 to 1, got nan"),
        (["demos", "--workers=0"], "workers must be at least 1"),
        (["demos", "--steps_after_success=-1"], "steps_after_success must be 0 or more, got -1"),
        ([*CALIBRATE, "--samples=1"], "--samples must be at least 2, got 1"),
        ([*CALIBRATE, "--delta=0"], "--delta must be above 0, got 0.0"),
        ([*CALIBRATE, "--delta=inf"], "--delta must be above 0, got inf"),
        ([*CALIBRATE, "--risk=1"], "--risk must be above 0 and below 1, got 1.0"),
        ([*CALIBRATE, "--risk=nan"], "--risk must be above 0 and below 1, got nan"),
        ([*CALIBRATE, "--max-depth=1"], "--max-depth must be at least 2, got 1"),
        ([*CONVERT, "--image-size=0"], "--image-size must be at least 1, got 0"),
        ([*CONVERT, "--samples=-1"], "--samples must be at least 1, got -1"),
        ([*CONVERT, "--depth=0"], "--depth must be at least 1, got 0"),
        (["openloop", "nothing", "nothing", "--samples=0"], "--samples must be at least 1, got 0"),
        (["openloop", "nothing", "nothing", "--stops", "8", "0"], "depth must be at least 1, got 0"),
        (["demo", "--episodes=0"], "--episodes must be at least 1, got 0"),
        (["data", "split", "nothing", "a", "b", "--seed=-1"], "--seed must be at least 0, got -1"),
        (["data", "split", "nothing", "a", "b", "--fraction=nan"], "--fraction must be above 0 and below 1"),
        (["data", "convert", "nothing", "new", "--fps=-10"], "--fps must be above 0, got -10.0"),
    ],
)
def test_an_impossible_number_is_one_sentence(argv, said, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_number_of_a_verb_says_what_it_takes():
    """A new option with a number must not forget its range."""
    folder = Path(cli.__file__).parent
    for path in [*folder.glob("[!_]*.py"), *folder.glob("*/[!_]*.py")]:
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        module = importlib.import_module(f"rdvla.cli.{name}")
        if not hasattr(module, "run"):
            continue
        hints = typing.get_type_hints(module.run, include_extras=True)
        for parameter in inspect.signature(module.run).parameters:
            marks = [
                mark
                for kind in (hints[parameter], *typing.get_args(hints[parameter]))
                for mark in getattr(kind, "__metadata__", ())
            ]
            plain = {hints[parameter], *typing.get_args(hints[parameter])} & {int, float}
            assert not plain or any(isinstance(mark, Number) for mark in marks), f"{name}: {parameter}"


@dataclass(frozen=True)
class Weighted:
    """A configuration that checks nothing itself."""

    weights: dict[str, float] = field(default_factory=dict)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_configuration_takes_an_infinity(value: float):
    with pytest.raises(ConfigError, match=r"noise_levels"):
        DemonstrationConfig(noise_levels=(0.1, value))
    with pytest.raises(ConfigError, match=r"option 'weights.b': expected a finite number, got"):
        decode_config(Weighted, {"weights": {"a": 0.1, "b": value}})


def test_the_largest_numbers_that_make_sense_are_taken():
    assert EvaluationConfig("p", "o", seed=2**32 - 25).episodes == 25
    assert parse_stop("fixed:10000") == Stop.fixed(10_000)


# --- cameras ---


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset with a camera, and the folder of a policy that takes it."""
    dataset = write_dataset(tmp_path / "dataset")
    tiny_policy().save_pretrained(tmp_path / "policy")
    return dataset, tmp_path / "policy"


def test_a_misspelt_camera_of_a_dataset_names_the_nearest(opened: tuple[Path, Path], tmp_path: Path, capsys):
    dataset, policy = opened
    known = EpisodeDataset(dataset, chunk_size=2).recorded_cameras[0]
    wrong = known[:-2] + known[-1] + known[-2]
    said = f"there is no camera '{wrong}' to rename, only .*Did you mean '{known}'"
    for argv in (
        ["calibrate", str(policy), str(dataset), "--dataset-cameras", f"{wrong}=front"],
        [
            "train",
            f"--dataset={dataset}",
            f"--output_dir={tmp_path / 'run'}",
            f"--data.cameras={{{wrong}: front}}",
        ],
    ):
        assert cli.main(argv) == 2
        assert re.search(said, capsys.readouterr().err)
    with pytest.raises(ConfigError, match=said):
        EpisodeDataset(dataset, chunk_size=2, camera_names={f"observation.images.{wrong}": "front"})


def test_a_misspelt_camera_of_a_simulator_names_the_nearest(capsys):
    with pytest.raises(ConfigError, match=r"unknown camera 'agentveiw'\. Did you mean 'agentview'"):
        check_cameras(["agentveiw"], task_suite("libero_goal").cameras)


def test_a_camera_that_is_almost_a_simulators_is_noted_at_conversion(capsys):
    """A robot's own cameras may be called anything, so this refuses nothing."""
    assert cli.main(["convert", "nothing", "new", "--cameras", "agentveiw", "ceiling"]) == 2
    shown = capsys.readouterr().err
    assert "note: no simulator has a camera 'agentveiw'. Did you mean 'agentview'?" in shown
    assert "ceiling" not in shown
