"""What a run minimises, and the validation figures that decide which step is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdvla.data import EpisodeDataset
from rdvla.heads import Loss, Score
from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import Batch, Share
from rdvla.policy.losses import LossWeights
from rdvla.training.batches import BatchSource, Draw, step_generator
from rdvla.training.config import TrainConfig
from rdvla.training.non_finite import NonFiniteLossError
from rdvla.training.ranks import Ranks
from rdvla.training.sharding import is_sharded
from rdvla.training.warm_starts import WarmStarts

VALIDATION_STREAM = 2**63  # no run has that many steps, so validation shares no draws with training


@dataclass(frozen=True)
class Objective:
    """The losses of a run, and what is done to its samples first.

    With actions, it is the paper's behaviour cloning: L1 between the chunk after r iterations and the
    demonstrated chunk, both normalised.
    """

    losses: LossWeights = LossWeights()  # noqa: RUF009  frozen
    depths: Sequence[int] = (1, 2, 4, 8, 12, 32)  # iterations that validation measures the chunk after
    proprio_noise: float = 0.0  # standard deviation added to the normalised proprioception in training
    warm_starts: WarmStarts | None = None  # of some samples; None: all start from noise
    candidates: int = 1  # initial states per sample, of which the one that ends nearest is trained

    def loss(
        self, policy: RDVLAPolicy, batch: Batch, draw: Draw, *, forward: Callable[..., Loss] | None = None
    ) -> Loss:
        """Return the loss of one update, or what a share of its batch adds to it.

        Args:
            policy: that is trained; gradients reach it through its `forward` alone.
            batch: the samples at `draw.frames`, or a share of them.
            draw: what chance decides, for the whole batch.
            forward: what wraps the policy to train it in several processes; None: nothing does.
        """
        forward = policy if forward is None else forward
        if self.losses.actions == 0:
            return self._forward(forward, batch, draw, generator=None)
        generator, share = draw.generator.clone_state(), batch.share  # `forward` draws S_0 from here
        if self.proprio_noise > 0 or self.warm_starts is not None:
            # Later draws follow S_0's, so they do not depend on when `forward` runs.
            for _ in range(self.candidates):
                policy.initial_state(len(draw.frames), draw.generator)
        if self.proprio_noise > 0:
            shape = (len(draw.frames), *batch.state.shape[1:])
            noise = torch.randn(shape, generator=draw.generator)
            noise = (noise if share is None else share.of(noise)).to(batch.state)
            batch = replace(batch, state=batch.state + self.proprio_noise * noise)
        if self.warm_starts is not None:
            earlier = self.warm_starts.for_update(policy, draw.frames, generator=draw.generator, share=share)
            batch = replace(batch, earlier=earlier)
        return self._forward(forward, batch, draw, generator=generator)

    def scores(
        self, policy: RDVLAPolicy, batch: Batch, frames: Tensor, *, generator: torch.Generator
    ) -> dict[str, Score]:
        """Return the figures of one validation batch, the last of which decides; without gradient.

        With actions: `l1_depth_<r>` for every depth, all of one run of the core. With warm starts also
        `warm_l1_depth_<r>`, of a second run in which every sample that has an earlier query starts from it.
        With several candidates `nearest_l1_depth_<r>` comes last, of the one that ends nearest after the
        last depth, as training has it. Without actions: `l1` of the environment state.

        Args:
            policy: in evaluation mode.
            batch: the samples at `frames`, or a share of them.
            frames: (B,) dataset frames.
            generator: S_0 is drawn from it.
        """
        if self.losses.actions == 0:
            return {"l1": policy.perception_error(batch)}
        again = generator.clone_state()
        figures = _by_depth("l1_depth", policy.errors(batch, depths=self.depths, generator=generator))
        if self.candidates > 1:
            errors = policy.errors(
                batch, depths=self.depths, generator=again.clone_state(), candidates=self.candidates
            )
            figures |= _by_depth("nearest_l1_depth", errors)
        if self.warm_starts is None:
            return figures
        # A copy, so the figures from noise are the same as in a run without warm starts.
        apart = generator.clone_state()
        earlier = self.warm_starts.for_all(policy, frames, generator=apart, share=batch.share)
        warm = replace(batch, earlier=earlier)
        errors = policy.errors(warm, depths=self.depths, generator=again)
        return _by_depth("warm_l1_depth", errors) | figures

    def _forward(
        self,
        forward: Callable[..., Loss],
        batch: Batch,
        draw: Draw,
        *,
        generator: torch.Generator | None,
    ) -> Loss:
        losses = self.losses.of(batch.share)
        loss = forward(
            batch, losses=losses, generator=generator, depth=draw.depth, candidates=self.candidates
        )
        if batch.share is None:
            return loss
        # What trains perception alone is a mean over samples, what the head logs over action steps.
        by_samples = loss.scalars.keys() if losses.actions == 0 else {"perception_loss"}
        parts = {
            name: batch.share.samples if name in by_samples else batch.share.steps for name in loss.scalars
        }
        return Loss(loss.total, {name: parts[name] * value for name, value in loss.scalars.items()})


def make_objective(config: TrainConfig, dataset: EpisodeDataset, source: BatchSource) -> Objective:
    """Build the objective that the configuration names.

    Args:
        config: of the run.
        dataset, source: warm starts find earlier queries there.

    Raises:
        ConfigError: no sample of the dataset has the earlier query that `warm_start` asks for.
    """
    keypoints = config.loss.keypoint_weight
    if config.objective == "perception":
        return Objective(LossWeights(actions=0.0, perception=1.0, keypoints=keypoints))
    warm = config.warm_start
    return Objective(
        LossWeights(perception=config.loss.perception_weight, keypoints=keypoints),
        depths=config.validation.depths,
        proprio_noise=config.loss.proprio_noise,
        warm_starts=WarmStarts(warm, dataset, source) if warm.share > 0 else None,
        candidates=config.loss.candidates,
    )


def total_of(losses: Sequence[Loss]) -> Loss:
    """Add up the losses of a batch's shares."""
    scalars = {
        name: sum((loss.scalars[name] for loss in losses[1:]), losses[0].scalars[name])
        for name in losses[0].scalars
    }
    return Loss(sum((loss.total for loss in losses[1:]), losses[0].total), scalars)


@torch.no_grad()
def validate(
    policy: RDVLAPolicy,
    objective: Objective,
    source: BatchSource,
    *,
    frames: Tensor,
    batch_size: int,
    seed: int,
    ranks: Ranks,
) -> dict[str, float]:
    """Return the objective's figures, averaged over `frames`; the same draws each time, so steps compare.

    Every rank computes its shares, and all return the same.

    Args:
        policy: with the weights to validate.
        objective: says which figures.
        source: gives the batches.
        frames: (N,) dataset frames of held-out episodes, N >= 1.
        batch_size: samples per batch.
        seed: of the run.
        ranks: that validate together.

    Raises:
        NonFiniteLossError: a figure is NaN or infinite.
    """
    generator = step_generator(seed, VALIDATION_STREAM)
    was_training = policy.training
    policy.eval()
    try:
        scores = []
        for some in torch.split(frames, batch_size):
            shares = ranks.shares(len(some))
            for share in shares or _idle(policy, len(some)):
                score = objective.scores(policy, source.batch(some, share=share), some, generator=generator)
                scores += [score] if shares else []
    finally:
        policy.train(was_training)
    sums = [{name: (float(at.total), float(at.count)) for name, at in score.items()} for score in scores]
    everywhere = [score for own in ranks.gather(sums) for score in own]
    figures = {name: _mean([score[name] for score in everywhere]) for name in everywhere[0]}
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"The validation figure {name} is {value}: the averaged weights have diverged."
            )
    return figures


def _idle(policy: RDVLAPolicy, batch_size: int) -> list[Share]:
    """Return what a rank computes that a small batch leaves out, and forgets."""
    # The others wait for its share of the weights.
    return [Share(first=0, size=1, whole=batch_size)] if is_sharded(policy) else []


def _by_depth(name: str, errors: dict[int, Score]) -> dict[str, Score]:
    return {f"{name}_{depth}": score for depth, score in errors.items()}


def _mean(sums: list[tuple[float, float]]) -> float:
    total, count = sum(one for one, _ in sums), sum(one for _, one in sums)
    return total / max(count, 1.0)
