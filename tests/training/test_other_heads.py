"""Training knows nothing of a head but the protocol: a head that does not iterate trains like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from rdvla.config import decode_config, encode_config
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.training import TrainConfig, Trainer, train
from rdvla.training.config import DataConfig, OptimizerConfig, ValidationConfig
from rdvla.training.metrics import read_metrics
from rdvla.training.samples import observe
from tests.support.regression_head import RegressionConfig, RegressionHead
from tests.support.tiny_training import policy_config, train_config

QUIET = Console(quiet=True)


def regression() -> PolicyConfig:
    return replace(policy_config(), head=RegressionConfig(chunk_size=4, action_dim=4))


def test_it_trains_validates_and_comes_back(dataset: Path, tmp_path: Path) -> None:
    config = train_config(
        dataset,
        tmp_path / "run",
        policy=regression(),
        steps=60,
        log_every=20,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
        validation=ValidationConfig(every=30, depths=(1, 4), max_samples=16, batch_size=8),
    )
    assert decode_config(TrainConfig, encode_config(config)) == config
    trainer = Trainer(config, console=QUIET)
    folder = trainer.run().policy_dir
    assert folder is not None
    losses = [line["loss"] for line in read_metrics(tmp_path / "run/metrics.jsonl", kind="train")]
    assert losses[-1] < 0.8 * losses[0]
    validation = read_metrics(tmp_path / "run/metrics.jsonl", kind="validation")[-1]
    assert validation["l1_depth_1"] == validation["l1_depth_4"]

    assert json.loads((folder / "config.json").read_text())["head"]["type"] == "test_regression"
    loaded = RDVLAPolicy.from_pretrained(folder)
    assert isinstance(loaded.head, RegressionHead)
    prediction = loaded.predict(observe(trainer.dataset, trainer.dataset.sample_index[:2]))
    assert prediction.actions.shape == (2, 4, 4) and prediction.depth.tolist() == [1, 1]


@pytest.mark.parametrize("freeze_backbone", [False, True])
def test_it_resumes_to_the_same_weights(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze_backbone: bool
) -> None:
    whole = train_config(
        dataset,
        tmp_path / "whole",
        policy=regression(),
        freeze_backbone=freeze_backbone,
        data=DataConfig(validation_fraction=0.34),
    )
    expected = train(whole, console=QUIET).policy_dir
    broken = Trainer(replace(whole, output_dir=str(tmp_path / "broken")), console=QUIET)
    draw = broken.sampler.draw

    def fail(step: int) -> object:
        if step == 7:
            raise KeyboardInterrupt
        return draw(step)

    monkeypatch.setattr(broken.sampler, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    found = train(replace(broken.config, resume=True), console=QUIET).policy_dir
    assert expected is not None and found is not None
    one, other = (load_file(folder / "model.safetensors") for folder in (expected, found))
    assert one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


def test_its_weights_are_taken_over(dataset: Path, tmp_path: Path) -> None:
    first = train(train_config(dataset, tmp_path / "first", policy=regression()), console=QUIET).policy_dir
    config = train_config(
        dataset,
        tmp_path / "second",
        policy=regression(),
        init_from=str(first),
        init_parts=("backbone", "head"),
    )
    policy = Trainer(config, console=QUIET).policy
    assert first is not None
    expected = load_file(first / "model.safetensors")
    assert all(value.equal(expected[name]) for name, value in policy.state_dict().items())
