"""What is compared: groups of trainings, each tuned with the same effort."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.harness import hardware
from benchmarks.log import Line, Log
from benchmarks.planning.planner import Shape
from benchmarks.planning.tasks import Chains, Maze
from benchmarks.planning.training import TEST_SEED, Recipe, fixed_problems, success, train

ITERATED = (1, 2, 3, 4, 6, 8, 16, 32)  # depths of the test
ONCE = (1,)
TEST_PROBLEMS = 512  # per length


@dataclass(frozen=True)
class Group:
    """A head and a way to train it: one line of a table."""

    task: Chains | Maze
    shape: Shape
    recipe: Recipe
    depths: tuple[int, ...] = ITERATED


@dataclass(frozen=True)
class Suite:
    """Groups that are compared with each other, and the learning rates that each may choose from."""

    groups: dict[str, Group]
    learning_rates: tuple[float, ...]

    def run(self, log: Log, *, seeds: Sequence[int]) -> None:
        """Train every group at every rate with the first seed, and with the other seeds at its best rate."""
        machine = hardware()
        if machine not in [line["hardware"] for line in log.of("", "machine")]:
            log.add({"kind": "machine", "case": "", "hardware": machine})
        for rate in self.learning_rates:
            for name in self.groups:
                self._train(log, name, rate, seeds[0])
        for seed in seeds[1:]:
            for name in self.groups:
                self._train(log, name, best_rate(log.of(name, "training")), seed)

    def _train(self, log: Log, name: str, rate: float, seed: int) -> None:
        group = self.groups[name]
        recipe = replace(group.recipe, learning_rate=rate)
        settings = {
            "task": {"kind": type(group.task).__name__} | asdict(group.task),
            "shape": asdict(group.shape),
            "recipe": asdict(recipe),
            "seed": seed,
        }
        for line in log.of(name, "training"):
            if (line["settings"]["recipe"]["learning_rate"], line["settings"]["seed"]) == (rate, seed):
                if line["settings"] != settings:
                    raise ValueError(f"{log.path} holds {name} with other settings; choose another --output")
                return
        before = time.process_time()
        found = run_training(group, recipe, seed=seed)
        seconds = round(time.process_time() - before, 1)
        log.add({"kind": "training", "case": name, "settings": settings, "cpu_seconds": seconds} | found)
        lengths = found["success"][str(group.depths[-1])]
        print(f"{name}, rate {rate:g}, seed {seed}: {list(lengths.values())} in {seconds} s", flush=True)


def run_training(group: Group, recipe: Recipe, *, seed: int, problems: int = TEST_PROBLEMS) -> dict[str, Any]:
    """Train and test one planner; return what is logged of it, with text for keys as in JSON."""
    planner, curve = train(group.task, group.shape, recipe, seed=seed)
    tests = fixed_problems(group.task, group.task.lengths, problems, TEST_SEED)
    tokens = next(iter(tests.values())).tokens.shape[1]
    found = success(planner, tests, depths=list(group.depths))
    return {
        "curve": curve,
        "problems": problems,
        "chance": {str(length): each.chance.mean().item() for length, each in tests.items()},
        "parameters": planner.parameters_of_head,
        "operations": {str(depth): planner.operations(tokens, depth=depth) for depth in group.depths},
        "success": {str(d): {str(length): n for length, n in row.items()} for d, row in found.items()},
    }


def validated(line: Line) -> int:
    """Return how many validation problems a training solved at its end, over the trained lengths."""
    return sum(line["curve"][-1]["validation"].values())


def best_rate(lines: Sequence[Line]) -> float:
    """Return a group's rate that validated best with the first seed; of equals the first one tried."""
    first = [line for line in lines if line["settings"]["seed"] == lines[0]["settings"]["seed"]]
    rate: float = max(first, key=validated)["settings"]["recipe"]["learning_rate"]
    return rate


CHAINS = Chains(items=18, chains=3)
ITERATE = Recipe(longest=3, depth=3, curriculum=0.5, updates=1200)
PASS = replace(ITERATE, depth=1)
THIN = Shape(core=1)

SHAPES = {
    "thin recurrent": Group(CHAINS, THIN, ITERATE),
    "core of two": Group(CHAINS, Shape(core=2, width=36), ITERATE),
    "paper's shape": Group(CHAINS, Shape(prelude=1, core=2, coda=1, width=24), ITERATE),
    "single pass": Group(CHAINS, THIN, PASS, ONCE),
    "untied narrow": Group(CHAINS, Shape(core=5, width=20), PASS, ONCE),
    "untied wide, 3 blocks": Group(CHAINS, Shape(core=3), PASS, ONCE),
    "untied wide, 6 blocks": Group(CHAINS, Shape(core=6), PASS, ONCE),
}
RECIPES = {
    "all lengths from the start": Group(CHAINS, THIN, replace(ITERATE, curriculum=0.0)),
    "curriculum from length 1": Group(CHAINS, THIN, replace(ITERATE, first_longest=1)),
    "random depth": Group(CHAINS, THIN, replace(ITERATE, random_depth=True)),
    "gradient through the last iteration": Group(CHAINS, THIN, replace(ITERATE, gradient_depth=1)),
    "loss after every iteration": Group(CHAINS, THIN, replace(ITERATE, supervise="every")),
    "the same, states detached": Group(CHAINS, THIN, replace(ITERATE, supervise="detached")),
    "vision gate from 0": Group(CHAINS, replace(THIN, vision_gate=0.0), ITERATE),
    "near-identity adapter": Group(CHAINS, replace(THIN, adapter_init="near_identity"), ITERATE),
    "outputs divided for depth 32": Group(CHAINS, replace(THIN, mean_depth=32), ITERATE),
    "3 scratch tokens": Group(CHAINS, replace(THIN, scratch=3), ITERATE),
}
SUITES = {
    "shapes": Suite(SHAPES, learning_rates=(3e-3, 6e-3)),
    "recipes": Suite(RECIPES, learning_rates=(3e-3, 6e-3)),
}
