"""Time a control step, a reset and an image of LIBERO: `python -m benchmarks.libero`.

It compares, interleaved in a process: a control step of this package and of the benchmark's own environment
without cameras, under the same actions; a reset of each; two camera images at 128 pixels, "full" and
"mirrors" against "fast". Needs 8 GB of memory. Prints medians with quartiles and paired ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Spread, hardware, interleave, paired_ratio
from rdvla import simulation
from rdvla.simulation.libero.problem import task_file
from rdvla.simulation.registry import FIRST_EVALUATION_SEED

STEPS = 10  # control steps per sample


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_goal")
    parser.add_argument("--task", type=int, default=0, help="number of the task in its suite")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    task = simulation.tasks(options.suite)[options.task]
    fast = simulation.make(options.suite, task)
    full = simulation.make(options.suite, task, rendering="full")
    mirrors = simulation.make(options.suite, task, rendering="mirrors")
    stock = _stock_environment(options.suite, task)
    for env in (fast, full, mirrors):
        env.reset(seed=FIRST_EVALUATION_SEED)
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (STEPS, 7)).astype(np.float32)
    print(f"{options.suite}, {task}\n{hardware()}")
    comparisons: dict[str, tuple[Callable[[], object], Callable[[], object], int]] = {
        "control step": (lambda: _execute(stock, actions), lambda: _execute(fast, actions), STEPS),
        "reset": (stock.reset, lambda: fast.reset(seed=1), 1),
        "two images, full": (full.render_cameras, fast.render_cameras, 1),
        "two images, mirrors": (mirrors.render_cameras, fast.render_cameras, 1),
    }
    for name, (slow, quick, count) in comparisons.items():
        samples = interleave({"theirs": slow, "ours": quick}, rounds=options.rounds, warmup=2)
        spreads = {who: Spread.of([one / count for one in found]) for who, found in samples.items()}
        ratio = paired_ratio(samples["theirs"], samples["ours"])
        print(
            f"{name:20}ratio {_text(ratio)}   " + "   ".join(f"{k} {_text(v)} ms" for k, v in spreads.items())
        )


def _stock_environment(suite: str, task: str) -> Any:
    """The benchmark's own environment, without cameras."""
    from libero.libero.envs.env_wrapper import ControlEnv

    with contextlib.redirect_stdout(io.StringIO()):
        env = ControlEnv(
            bddl_file_name=str(task_file(suite, task)),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            horizon=10**9,
        )
        env.reset()
    return env


def _execute(env: Any, actions: Any) -> None:
    for action in actions:
        env.step(action)


def _text(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


if __name__ == "__main__":
    main()
