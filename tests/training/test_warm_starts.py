"""Training from warm starts: which query came before, what it ended with, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training import Trainer, train
from rdvla.training.batches import Draw, step_generator
from rdvla.training.config import DataConfig, LossConfig, WarmStartConfig
from rdvla.training.metrics import read_metrics
from rdvla.training.objectives import Objective
from rdvla.training.warm_starts import NO_FRAME, WarmStarts, earlier_frames
from rdvla.types import Observation
from tests.support.tiny_training import policy_config, train_config, write_dataset

QUIET = Console(quiet=True)
STRIDE, LENGTH = 3, 24  # of the tiny dataset: control steps from image to image, and of an episode
ALL = WarmStartConfig(share=1.0, executed=3, depth=2)


def make(dataset: Path, folder: Path, warm_start: WarmStartConfig, **changes: Any) -> Trainer:
    return Trainer(train_config(dataset, folder, warm_start=warm_start, **changes), console=QUIET)


def warm_starts(trainer: Trainer) -> WarmStarts:
    assert trainer.objective.warm_starts is not None
    return trainer.objective.warm_starts


def noise_of(policy: RDVLAPolicy, size: int, generator: torch.Generator) -> Tensor:
    return policy.initial_state(size, generator).detach()


def draw(frames: Tensor, *, seed: int, depth: int = 2) -> Draw:
    return Draw(step=0, frames=frames, depth=depth, generator=torch.Generator().manual_seed(seed))


def observe(dataset: EpisodeDataset, frames: list[int]) -> Observation:
    return Observation(
        images=dataset.images(frames), state=dataset.state(frames), instruction=dataset.instructions(frames)
    )


# --- which query came before ---


@pytest.mark.parametrize("stride", [1, 3, 4])
@pytest.mark.parametrize("executed", [1, 3, 4, 8])
@pytest.mark.parametrize("sample_every", [1, 2])
def test_the_query_before_is_the_nearest_sample_that_is_far_enough(
    tmp_path: Path, stride: int, executed: int, sample_every: int
) -> None:
    root = write_dataset(tmp_path / "data", episodes=2, length=LENGTH, stride=stride)
    data = EpisodeDataset(root, chunk_size=4, sample_every=sample_every)
    for episode in range(2):
        samples = [frame for frame in data.sample_index.tolist() if frame // LENGTH == episode]
        new_images = range(episode * LENGTH, (episode + 1) * LENGTH, stride)
        for frame in samples:
            enough = [image for image in new_images if image <= frame - executed]
            expected = enough[-1] if enough and enough[-1] in samples else NO_FRAME
            assert earlier_frames(data, torch.tensor([frame]), executed=executed).tolist() == [expected]


def test_both_episodes_of_a_batch_are_looked_up_alike(dataset: Path) -> None:
    data = EpisodeDataset(dataset, chunk_size=4)
    frames = torch.tensor([LENGTH + 6, 0, LENGTH, 9, 9])
    assert earlier_frames(data, frames, executed=3).tolist() == [LENGTH + 3, NO_FRAME, NO_FRAME, 6, 6]


# --- what it ended with ---


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["final", "midpoint", "shifted"])
def test_samples_start_where_the_policys_own_query_ended(
    dataset: Path, tmp_path: Path, kind: Any, frozen: bool
) -> None:
    """`predict` on the earlier frames' observations, sample by sample, is the independent way."""
    config = WarmStartConfig(share=1.0, kind=kind, executed=2, depth=3)  # 2 of a stride of 3: 3 were executed
    trainer = make(dataset, tmp_path / "run", config, freeze_backbone=frozen)
    policy, data = trainer.policy, trainer.dataset
    frames = torch.tensor([6, 0, LENGTH + 9])
    noise = noise_of(policy, 3, torch.Generator().manual_seed(1))
    earlier_queries = warm_starts(trainer).for_all(policy, frames, generator=torch.Generator().manual_seed(2))
    assert earlier_queries is not None
    found = earlier_queries.initial_state(noise)

    earlier_noise = noise_of(policy, 2, torch.Generator().manual_seed(2))
    policy.eval()
    for sample, earlier, drawn in ((0, 3, earlier_noise[:1]), (2, LENGTH + 6, earlier_noise[1:])):
        ended = policy.predict(observe(data, [earlier]), stop=3, initial_state=drawn).state[0]
        expected = {
            "final": ended,
            "midpoint": (ended + noise[sample]) / 2,
            "shifted": torch.cat([ended[3:], noise[sample, 1:]]),  # K = 4
        }[kind]
        # The cache of frozen features holds float16.
        torch.testing.assert_close(found[sample], expected, atol=5e-3 if frozen else 1e-5, rtol=0)
    assert found[1].equal(noise[1])  # an episode's first query


def test_the_earlier_query_is_a_robots(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No dropout and no gradient in it, and training goes on in its own mode."""
    trainer = make(dataset, tmp_path / "run", ALL)
    policy = trainer.policy.train()
    modes: list[tuple[bool, bool]] = []

    features = policy.backbone.features

    def record(inputs: Any) -> Any:
        modes.append((policy.training, torch.is_grad_enabled()))
        return features(inputs)

    monkeypatch.setattr(policy.backbone, "features", record)
    trainer.update(trainer.sampler.draw(0))
    assert modes == [(False, False), (True, True)]


def test_no_gradient_flows_into_the_earlier_query(dataset: Path, tmp_path: Path) -> None:
    """The gradient equals the gradient of the same loss with S_0 given as numbers."""
    trainer = make(dataset, tmp_path / "run", ALL, data=DataConfig(validation_fraction=0.34))
    policy, frames = trainer.policy, torch.tensor([6, 9, LENGTH + 3])
    batch = trainer.source.batch(frames)
    parameters = [p for p in policy.parameters() if p.requires_grad]

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def loss_of(objective: Objective) -> Tensor:  # depth 2: no iteration of the sample itself is free
        return objective.loss(policy, batch, draw(frames, seed=4)).total

    context = policy.context_from(batch.features, batch.state)
    start = _start_as_in_the_loss(trainer, frames)
    actions = policy.head(context, depth=2, initial_state=start)
    kept = (~batch.action_is_pad)[..., None]
    by_hand = ((actions - batch.actions).abs() * kept).sum() / (kept.sum() * actions.shape[-1])
    found, from_noise = gradients(loss_of(trainer.objective)), gradients(loss_of(Objective()))
    torch.testing.assert_close(found, gradients(by_hand))
    assert not all(torch.allclose(a, b) for a, b in zip(found, from_noise, strict=True))


def _start_as_in_the_loss(trainer: Trainer, frames: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    noise = noise_of(trainer.policy, len(frames), generator)
    earlier = warm_starts(trainer).for_update(trainer.policy, frames, generator=generator)
    assert earlier is not None
    return earlier.initial_state(noise)


# --- chance ---


def test_the_share_is_the_probability_of_a_warm_start(dataset: Path, tmp_path: Path) -> None:
    trainer = make(dataset, tmp_path / "run", WarmStartConfig(share=0.3, executed=3, depth=1))
    frames = torch.full((2000,), 6)
    noise = noise_of(trainer.policy, 2000, step_generator(0, 0))
    earlier = warm_starts(trainer).for_update(trainer.policy, frames, generator=step_generator(0, 1))
    assert earlier is not None
    start = earlier.initial_state(noise)
    changed = (start != noise).flatten(1).any(1).double().mean().item()
    assert changed == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 2000) ** 0.5)


def test_a_step_draws_the_same_again(dataset: Path, tmp_path: Path) -> None:
    """In two runs, of which the second did other steps before."""
    weights = []
    for name, before in (("a", ()), ("b", (5, 6))):
        trainer = make(dataset, tmp_path / name, replace(ALL, share=0.5), loss=LossConfig(proprio_noise=0.1))
        start = {key: value.clone() for key, value in trainer.policy.state_dict().items()}
        for step in before:
            drawn = replace(trainer.sampler.draw(step), depth=2)
            trainer.objective.loss(trainer.policy, trainer.source.batch(drawn.frames), drawn)
        trainer.policy.load_state_dict(start)
        trainer.update(trainer.sampler.draw(3))
        weights.append(trainer.policy.state_dict())
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_without_a_share_every_draw_is_as_before(dataset: Path, tmp_path: Path) -> None:
    """After the loss the generator has drawn the same as without the option: S_0, then the noise."""
    off = WarmStartConfig(share=0.0, kind="shifted", executed=3, depth=5)
    trainer = make(dataset, tmp_path / "run", off, loss=LossConfig(proprio_noise=0.1))
    assert trainer.objective.warm_starts is None
    drawn = draw(torch.tensor([0, 6, 9]), seed=3)
    trainer.objective.loss(trainer.policy, trainer.source.batch(drawn.frames), drawn)
    expected = torch.Generator().manual_seed(3)
    noise_of(trainer.policy, 3, expected)
    torch.randn(3, 4, generator=expected)
    assert drawn.generator.get_state().equal(expected.get_state())

    results = [
        train(train_config(dataset, tmp_path / name, warm_start=warm), console=QUIET).policy_dir
        for name, warm in (("off", off), ("plain", WarmStartConfig()))
    ]
    one, other = (load_file(folder / "model.safetensors") for folder in results if folder is not None)
    assert all(value.equal(other[name]) for name, value in one.items())


def test_other_draws_stay_where_they_were(dataset: Path, tmp_path: Path) -> None:
    """With a share, samples that start from noise start from the noise that they had without."""
    trainer = make(dataset, tmp_path / "run", replace(ALL, executed=LENGTH - STRIDE), policy=_long_chunks())
    frames = torch.tensor([0, 6, 9])  # none has a query so long before it
    batch = trainer.source.batch(frames)
    losses = [
        objective.loss(trainer.policy, batch, draw(frames, seed=3)).total
        for objective in (trainer.objective, Objective())
    ]
    assert losses[0].equal(losses[1])


def _long_chunks() -> Any:
    return policy_config(chunk_size=LENGTH)


# --- whole runs ---


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_resumes_to_the_same_weights(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    changes = {"loss": LossConfig(proprio_noise=0.1), "mixed_precision": precision}
    whole = make(dataset, tmp_path / "whole", replace(ALL, share=0.5), **changes).run().policy_dir
    broken = make(dataset, tmp_path / "broken", replace(ALL, share=0.5), **changes)
    drawn = broken.sampler.draw

    def fail(step: int) -> Any:
        if step == 7:
            raise KeyboardInterrupt
        return drawn(step)

    monkeypatch.setattr(broken.sampler, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = train(replace(broken.config, resume=True), console=QUIET).policy_dir
    assert whole is not None and resumed is not None
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(value.equal(other[name]) for name, value in one.items())


def test_validation_reads_both_starts_and_noise_decides(dataset: Path, tmp_path: Path) -> None:
    trainer = make(dataset, tmp_path / "run", ALL)
    policy, frames = trainer.policy.eval(), torch.tensor([0, 6, 9])
    batch = trainer.source.batch(frames)
    with torch.no_grad():
        generator, cold_generator = (torch.Generator().manual_seed(5) for _ in range(2))
        warm = trainer.objective.scores(policy, batch, frames, generator=generator)
        cold = Objective(depths=(1, 2, 4)).scores(policy, batch, frames, generator=cold_generator)
    assert generator.get_state().equal(cold_generator.get_state())
    assert list(warm) == [f"{start}l1_depth_{depth}" for start in ("warm_", "") for depth in (1, 2, 4)]
    assert all(warm[name].total.equal(score.total) for name, score in cold.items())

    draws = torch.Generator().manual_seed(5)
    noise = noise_of(policy, 3, draws)
    earlier = warm_starts(trainer).for_all(policy, frames, generator=draws)
    assert earlier is not None
    start = earlier.initial_state(noise)
    context = policy.context_from(batch.features, batch.state)
    actions = policy.head.predict(context, stop=4, initial_state=start).actions
    kept = (~batch.action_is_pad)[..., None]
    torch.testing.assert_close(warm["warm_l1_depth_4"].total, ((actions - batch.actions).abs() * kept).sum())

    trainer.run()
    lines = read_metrics(tmp_path / "run/metrics.jsonl", kind="validation")
    assert trainer.state.best is not None
    assert trainer.state.best.loss == min(line["l1_depth_4"] for line in lines)


# --- what is refused ---


def test_a_dataset_without_earlier_queries_is_refused(dataset: Path, tmp_path: Path) -> None:
    data = DataConfig(validation_fraction=0.34, sample_every=2)  # a chunk starts at every sixth control step
    with pytest.raises(ConfigError, match=r"warm_start\.executed=3.*data\.sample_every=2"):
        make(dataset, tmp_path / "run", ALL, data=data)


def test_samples_of_the_tiny_dataset_have_earlier_queries(dataset: Path) -> None:
    """What the tests above rest on."""
    data = EpisodeDataset(dataset, chunk_size=4)
    found = earlier_frames(data, torch.from_numpy(data.sample_index), executed=STRIDE)
    np.testing.assert_array_equal(found == NO_FRAME, data.sample_index % LENGTH == 0)
