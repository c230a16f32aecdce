"""Trains a planner one way of several, and measures it on problems fixed beforehand."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.planning.planner import Planner, Shape
from benchmarks.planning.tasks import Problems, Task
from rdvla.heads import ConstantDepth, DepthDistribution, LogNormalPoisson

VALIDATION_SEED, TEST_SEED = 1_000_000, 2_000_000  # no training has them
VALIDATION_PROBLEMS = 128  # per length
WARMUP = 100  # updates


@dataclass(frozen=True)
class Recipe:
    """How a planner is trained. The loss is the cross-entropy of the answer."""

    longest: int = 4  # plans of 1 to this many steps are trained
    depth: int = 4  # iterations of an update, or their mean
    random_depth: bool = False  # as in the paper: log-normal Poisson, up to four times the mean
    gradient_depth: int = 8  # iterations that gradient flows through, the last ones
    supervise: str = "last"  # every: loss after each of them; detached: and no gradient from one to the next
    curriculum: float = 0.0  # share of the updates in which the longest plan grows to `longest`,
    first_longest: int = 2  # from this
    learning_rate: float = 5e-3
    updates: int = 1500
    batch: int = 64

    def __post_init__(self) -> None:
        if self.supervise not in SUPERVISIONS:
            raise ValueError(f"supervise must be one of {', '.join(SUPERVISIONS)}, got {self.supervise!r}")

    @property
    def depths(self) -> DepthDistribution:
        """Where the depth of an update is drawn from."""
        if self.random_depth:
            return LogNormalPoisson(mean=self.depth, maximum=4 * self.depth)
        return ConstantDepth(self.depth)

    def longest_at(self, update: int) -> int:
        """Return the longest plan that update draws."""
        growth = self.curriculum * self.updates
        if update >= growth:
            return self.longest
        return self.first_longest + int((self.longest - self.first_longest) * update / growth)


SUPERVISIONS = ("last", "every", "detached")


def train(
    task: Task, shape: Shape, recipe: Recipe, *, seed: int, context_width: int = 48, report_every: int = 250
) -> tuple[Planner, list[dict[str, Any]]]:
    """Train a planner; return it, and what validation said every `report_every` updates."""
    torch.manual_seed(seed)
    planner = Planner(task, shape, context_width=context_width)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(planner.parameters(), recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda update: _rate(update, recipe.updates))
    validation = fixed_problems(task, range(1, recipe.longest + 1), VALIDATION_PROBLEMS, VALIDATION_SEED)
    curve: list[dict[str, Any]] = []
    before, losses = time.process_time(), []
    for update in range(recipe.updates):
        longest = recipe.longest_at(update)
        lengths = torch.randint(1, longest + 1, (recipe.batch,), generator=generator)
        problems = task.draw(lengths, generator)
        loss = update_loss(planner, problems, recipe, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(planner.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if (update + 1) % report_every == 0 or update + 1 == recipe.updates:
            found = success(planner, validation, depths=[recipe.depth])
            curve.append(
                {
                    "update": update + 1,
                    "loss": sum(losses) / len(losses),
                    "longest": longest,
                    "validation": found[recipe.depth],
                    "cpu_seconds": round(time.process_time() - before, 1),
                }
            )
            losses = []
    return planner, curve


def update_loss(planner: Planner, problems: Problems, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Run the iterations of one update, and return its loss."""
    encoded = planner.head.encode(planner.context(problems.tokens))
    state = planner.head.initial_state(len(problems.tokens), generator)
    depth = recipe.depths.sample(generator)
    losses = []
    for k in range(1, depth + 1):
        learns = k > depth - recipe.gradient_depth
        with torch.set_grad_enabled(learns):
            state = planner.head.iterate(state, encoded)
        if k == depth or (learns and recipe.supervise != "last"):
            losses.append(F.cross_entropy(planner.logits(state, encoded), problems.answer))
            if recipe.supervise == "detached":
                state = state.detach()
    return torch.stack(losses).mean()


def fixed_problems(task: Task, lengths: range, count: int, seed: int) -> dict[int, Problems]:
    """Draw `count` problems of each length; every length has a seed of its own."""
    return {
        length: task.draw(torch.full((count,), length), torch.Generator().manual_seed(seed + length))
        for length in lengths
    }


def success(
    planner: Planner, problems: dict[int, Problems], *, depths: list[int]
) -> dict[int, dict[int, int]]:
    """Return how many problems are solved, by depth and length."""
    found: dict[int, dict[int, int]] = {depth: {} for depth in depths}
    for length, each in problems.items():
        generator = torch.Generator().manual_seed(TEST_SEED)
        for depth, correct in planner.correct(each, depths=depths, generator=generator).items():
            found[depth][length] = int(correct.sum())
    return found


def _rate(update: int, updates: int) -> float:
    """Linear warm-up, then a cosine down to 2%."""
    return min(1.0, (update + 1) / WARMUP) * max(0.02, 0.5 * (1 + math.cos(math.pi * update / updates)))
