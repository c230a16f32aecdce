"""What batches save: queries of a policy one at a time and together, in processor time.

    python -m benchmarks.serving_inference metaworld --output runs/bench/batches.json
    python -m benchmarks.serving_inference policies/libero_goal --stop 5

The time is `time.process_time` of one torch thread, so other programs of the machine change it little. Robots
see the observations that ship with the package, each from a starting state of its own. They are of MetaWorld;
to another policy they mean nothing, so give `--stop` the depth that it usually needs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Spread, hardware, paired_ratio
from rdvla.cli.demo import shipped_observations
from rdvla.files import write_json
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import Query, ServedPolicy
from rdvla.types import Observation

SIZES = (1, 8, 16, 32)
ROBOTS = 32


def measure(source: str, *, stop: str | None, rounds: int) -> dict[str, Any]:
    """Return milliseconds of processor time per query, by batch size."""
    policy = load_policy(source, name="default", threads=1)
    queries = [_query(policy, robot, stop=stop) for robot in range(ROBOTS)]

    def answer_all(size: int) -> list[int]:
        batches = [queries[first : first + size] for first in range(0, ROBOTS, size)]
        return [int(each.prediction.depth) for batch in batches for each in policy.predict(batch)]

    depths = answer_all(SIZES[-1])
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):  # in turn, so drifts of the machine fall on all sizes alike
        for size in SIZES:
            times[size].append(_milliseconds(answer_all, size) / ROBOTS)
    rows = [
        {
            "batch": size,
            "ms": (spread := Spread.of(times[size])).median,
            "spread_ms": [spread.low, spread.high],
            "times_faster": paired_ratio(times[1], times[size]).median,
        }
        for size in SIZES
    ]
    return {"policy": source, "rounds": rounds, "mean_depth": statistics.fmean(depths), "rows": rows}


def _milliseconds(answer_all: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    answer_all(size)
    return 1000 * (time.process_time() - began)


def _query(policy: ServedPolicy, robot: int, *, stop: str | None) -> Query:
    shipped, facts = shipped_observations().numpy(), policy.facts
    sample, cameras = robot % shipped.batch_size, list(shipped.images)
    images = {
        camera: shipped.images[cameras[number % len(cameras)]][sample]
        for number, camera in enumerate(facts.cameras)
    }
    state = np.resize(shipped.state[sample], facts.state_dim)
    known = facts.instructions
    instruction = known[robot % len(known)] if known else shipped.instruction[sample]
    return Query(Observation(images, state, instruction), policy.initial_state(robot), stop=stop)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("policies", nargs="+")
    parser.add_argument("--stop", help="the policy's own rule if not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = [measure(policy, stop=options.stop, rounds=options.rounds) for policy in options.policies]
    for policy in found:
        print(f"{policy['policy']}: mean depth {policy['mean_depth']:.1f}")
        for row in policy["rows"]:
            low, high = row["spread_ms"]
            print(
                f"  batches of {row['batch']:>2}: {row['ms']:.2f} ms per query ({low:.2f} to {high:.2f}), "
                f"{row['times_faster']:.2f} times"
            )
    if options.output:
        write_json(options.output, {"hardware": hardware(), "policies": found})


if __name__ == "__main__":
    main()
