"""Calibrated stop rules keep their promise, on traces that say so by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rdvla.cli import main
from rdvla.control import STOP_RULES, Stop, parse_stop
from rdvla.control.stop import Limit, StopRule
from rdvla.errors import RDVLAError
from rdvla.files import read_json
from rdvla.policy import RDVLAPolicy
from rdvla.training import train
from rdvla.training.calibration import (
    Changes,
    before_actions,
    calibrated,
    calibrated_rules,
    changes_of,
    outcome,
)
from rdvla.training.samples import observe, open_samples
from tests.support.closeness import assert_no_close_calls
from tests.support.tiny_training import train_config, write_dataset

DEPTH = 32
PAPER = Stop("action_change", threshold=1e-3)


def decaying(samples: int, *, seed: int = 0) -> Changes:
    """Latent changes that shrink at a rate of their own; actions follow them, noisily."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.5, 0.8, samples)
    latent = rate ** np.arange(DEPTH)[:, None]
    action = latent**2 * np.exp(rng.normal(0, 0.3, (DEPTH, samples)))
    latent[0] = action[0] = np.nan
    return Changes({"action_change": action, "latent_change": latent})


def unsettled(changes: Changes) -> Changes:
    """The same, but the actions change by 1 in every iteration."""
    return Changes({**changes.by_name, "action_change": np.ones_like(changes["action_change"])})


def test_stops_are_those_of_the_rules() -> None:
    action = np.array([[np.nan, np.nan], [0.5, 0.5], [1e-4, 0.5], [1e-4, 0.5]])
    latent = np.array([[np.nan, np.nan], [0.9, 0.9], [0.5, 0.4], [0.1, 0.4]])
    changes = Changes({"action_change": action, "latent_change": latent})
    assert changes.stops(Stop("action_change", threshold=1e-3, max_depth=4)).tolist() == [3, 4]
    assert changes.stops(Stop("action_change", threshold=1.0, min_depth=3, max_depth=4)).tolist() == [3, 3]
    assert changes.stops(Stop("latent_change", threshold=0.45, max_depth=4)).tolist() == [4, 3]
    assert changes.stops(
        Stop("deferred_action_change", threshold=1e-3, coda_below=0.2, max_depth=4)
    ).tolist() == [4, 4]


@pytest.mark.parametrize("risk", [0.02, 0.1])
def test_the_share_that_still_moves_is_kept_and_used(risk: float) -> None:
    shares = []
    for seed in range(20):
        known, new = decaying(500, seed=2 * seed), decaying(500, seed=2 * seed + 1)
        rule = calibrated("latent_change", known, PAPER, risk=risk)
        assert outcome(rule, known, paper=PAPER).moving <= risk
        shares.append(outcome(rule, new, paper=PAPER).moving)
    # On average over draws: what conformal control promises.
    assert 0.3 * risk < np.mean(shares) < 1.15 * risk


def test_a_deferred_coda_is_read_less_and_stops_where_the_papers_rule_does() -> None:
    known, new = decaying(500), decaying(500, seed=1)
    rule = calibrated("deferred_action_change", known, PAPER, risk=0.02)
    paper, deferred = (outcome(stop, new, paper=PAPER) for stop in (PAPER, rule))
    assert deferred.same_depth > 0.95 and deferred.moving == 0
    assert deferred.mean_coda_reads < 0.6 * paper.mean_coda_reads
    assert paper.same_depth == 1


def test_a_new_rule_of_the_table_is_calibrated_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (Limit("threshold", "action_change", 1e-3), Limit("angle", "cosine_change", 0.1))
    monkeypatch.setitem(STOP_RULES, "once_aligned", StopRule(limits, "a rule of tomorrow"))
    known, new = (
        Changes({**changes.by_name, "cosine_change": changes["latent_change"] ** 2 / 2})
        for changes in (decaying(500), decaying(500, seed=1))
    )
    assert "once_aligned" in calibrated_rules()
    found = outcome(calibrated("once_aligned", known, PAPER, risk=0.02), new, paper=PAPER)
    assert found.same_depth > 0.95 and found.moving == 0
    assert found.mean_coda_reads < 0.6 * outcome(PAPER, new, paper=PAPER).mean_coda_reads


def test_where_actions_never_settle_hardly_a_sample_stops() -> None:
    known = unsettled(decaying(500))
    rule = calibrated("latent_change", known, PAPER, risk=0.02)
    assert (known.stops(rule) < DEPTH).mean() <= 0.02


def test_what_cannot_be_calibrated_is_said() -> None:
    changes = decaying(100)
    with pytest.raises(RDVLAError, match="only 0 samples stop by action_change"):
        before_actions("latent_change", unsettled(changes), PAPER, risk=0.02)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("calibration")
    dataset = write_dataset(root / "data")
    train(train_config(dataset, root / "run"), console=Console(quiet=True))
    return root / "run" / "policy", dataset


def test_the_command_tests_on_other_episodes_and_writes_rules_that_can_be_read(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, dataset = trained
    report = tmp_path / "report.json"
    arguments = ["--samples", "40", "--delta", "0.5", "--risk", "0.2", "--output", str(report)]
    assert main(["calibrate", str(policy), str(dataset), *arguments]) == 0
    found = read_json(report)
    assert found["calibration_samples"] > 0 and found["test_samples"] > 0
    rules = [parse_stop(outcome["rule"]) for outcome in found["outcomes"]]
    assert [rule.rule for rule in rules] == [
        "action_change",
        "deferred_action_change",
        "latent_change",
        "cosine",
    ]
    printed = capsys.readouterr().out
    assert all(outcome["rule"] in printed for outcome in found["outcomes"])
    chosen = found["outcomes"][1]["rule"]
    assert printed.splitlines()[-3:] == [
        f"written: {report}",
        f"next: rdvla eval --policy {policy} --output RUN --stops '[\"{chosen}\"]'",
        f'or: policy.predict(observation, stop="{chosen}")',
    ]


@pytest.mark.parametrize("pair", ["image", "image=", "=front"])
def test_a_camera_without_a_name_is_refused(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str], pair: str
) -> None:
    policy, dataset = trained
    assert main(["calibrate", str(policy), str(dataset), "--dataset-cameras", pair]) == 2
    assert f"takes NAME=CAMERA, such as image=agentview, got {pair!r}" in capsys.readouterr().err


def test_changes_stop_samples_where_the_head_does(trained: tuple[Path, Path]) -> None:
    folder, dataset = trained
    policy = RDVLAPolicy.from_pretrained(folder)
    data = open_samples(policy, str(dataset), camera_names={})
    frames = data.sample_index[:6]
    changes = changes_of(policy, data, frames, DEPTH)
    traced = policy.predict(
        observe(data, frames), stop=DEPTH, generator=torch.Generator().manual_seed(0), trace=True
    )
    for rule in (
        Stop("action_change", threshold=0.1),
        Stop("latent_change", threshold=0.6),
        Stop("deferred_action_change", threshold=0.1, coda_below=0.65),
    ):
        generator = torch.Generator().manual_seed(0)
        prediction = policy.predict(observe(data, frames), stop=rule, generator=generator)
        assert_no_close_calls(traced.trace, rule, tolerance=3e-5)
        assert changes.stops(rule).tolist() == prediction.depth.tolist()
        assert int(prediction.depth.min()) < DEPTH


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples must be at least 2"),
        ({"risk": 1.5}, "risk must be above 0 and below 1"),
        ({"samples": 10, "risk": 0.01}, "takes at least 100 samples"),
    ],
)
def test_bad_numbers_are_refused_before_anything_runs(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str], options: dict[str, float], message: str
) -> None:
    policy, dataset = trained
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    assert main(["calibrate", str(policy), str(dataset), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_policy_that_computes_nan_is_named(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, dataset = trained
    policy = RDVLAPolicy.from_pretrained(folder)
    torch.nn.init.constant_(policy.head.output.weight, 3e38)  # finite itself, so the policy loads
    policy.save_pretrained(tmp_path / "broken")
    arguments = ["--samples", "40", "--delta", "0.5", "--risk", "0.2"]
    assert main(["calibrate", str(tmp_path / "broken"), str(dataset), *arguments]) == 2
    assert "the policy computed actions that are NaN or infinite" in capsys.readouterr().err
