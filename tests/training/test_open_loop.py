"""A policy's actions next to demonstrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from rdvla.cli import main
from rdvla.data import EpisodeDataset, split_episodes
from rdvla.policy import RDVLAPolicy
from rdvla.training import train
from rdvla.training.open_loop.compare import compare
from rdvla.training.samples import open_samples
from rdvla.types import Prediction
from tests.support.tiny_training import train_config

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = train_config(dataset, tmp_path_factory.mktemp("open_loop") / "run")
    train(config, console=QUIET)
    return Path(config.output_dir)


def test_errors_are_those_of_the_predictions_on_held_out_episodes(run: Path, dataset: Path) -> None:
    policy = RDVLAPolicy.from_pretrained(run)
    opened = open_samples(policy, str(dataset))
    found = compare(policy, opened, stops=("2",), samples=10_000, console=QUIET)
    held_out = split_episodes(opened, 0.34, 0)[1]
    assert found.seen == "held out" and list(found.episodes) == held_out
    data = EpisodeDataset(dataset, chunk_size=4, episodes=held_out)
    assert found.samples == len(data) and found.rows[0].depth == 2
    demonstrated = data.actions(data.sample_index)
    assert found.rows[0].error > 0 and demonstrated.shape[2] == len(found.rows[0].by_dimension) == 4


class Expert:
    """Knows the demonstrations, and is wrong by a tenth in its first dimension."""

    def __init__(self, policy: RDVLAPolicy, dataset: EpisodeDataset) -> None:
        self.records, self.action_normalizer = policy.records, policy.action_normalizer
        self._by_state = {
            tuple(dataset.state([frame])[0].tolist()): frame for frame in range(dataset.num_frames)
        }
        self._dataset = dataset

    def predict(self, observation: Any, **_: Any) -> Prediction:
        frames = [self._by_state[tuple(row)] for row in observation.state.tolist()]
        actions = self._dataset.actions(frames) + torch.tensor([0.1, 0, 0, 0])
        count = len(frames)
        return Prediction(actions, torch.full((count,), 3), torch.ones(count, dtype=torch.bool), actions)


def test_an_expert_has_the_error_that_it_was_given(run: Path, dataset: Path) -> None:
    policy = RDVLAPolicy.from_pretrained(run)
    opened = open_samples(policy, str(dataset))
    expert: Any = Expert(policy, opened)
    found = compare(expert, opened, stops=("1",), samples=50, console=QUIET)
    np.testing.assert_allclose(found.rows[0].by_dimension, [0.1, 0, 0, 0], atol=1e-6)
    scale = (policy.action_normalizer.high - policy.action_normalizer.low)[0].item() / 2
    assert found.rows[0].error == pytest.approx(0.1 / scale / 4, rel=1e-4)
    for curve in found.curves:
        np.testing.assert_allclose(curve.predicted - curve.demonstrated, [[0.1, 0, 0, 0]] * 24, atol=1e-6)
        assert curve.starts == (0, 4, 8, 12, 16, 20) and curve.depths == (3,) * 6


def test_unknown_training_counts_as_seen(run: Path, dataset: Path) -> None:
    policy = RDVLAPolicy.from_pretrained(run)
    opened = open_samples(policy, str(dataset))
    policy.records = {}
    found = compare(policy, opened, stops=("1",), samples=8, console=QUIET)
    assert found.seen == "not known" and len(found.episodes) == opened.num_episodes


def test_the_command_writes_a_page_and_figures(
    run: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["openloop", str(run), str(dataset), "--output", str(tmp_path / "out"), "--stops", "1", "4"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "out/open_loop.json").read_text())
    assert [row["stop"] for row in figures["rows"]] == ["1", "4"]
    assert f"L1 {figures['rows'][1]['error']:.4f}" in printed
    page = (tmp_path / "out/open_loop.html").read_text()
    assert page.count("<svg") == len(figures["curves"]) and "trained on these episodes" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "https://matplotlib.org", ""
    ).replace("http://creativecommons.org", "")


def test_nothing_is_done_before_the_output_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["openloop", "metaworld", "x", "--output", str(tmp_path / "taken" / "below")]) == 2
