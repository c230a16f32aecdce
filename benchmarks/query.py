"""A whole query of a compact policy, from raw camera frames to actions in the robot's units.

    python -m benchmarks.query metaworld policies/libero_goal --output runs/bench/query.json

Batch 1, under the policy's own stop rule; all start from the same initial state. The baseline is the policy
after loading. `onnx` is the whole policy after `rdvla export`. Its image encoder computes in float32, so it
may stop at another depth, which is reported next to the time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Spread, hardware, interleave, paired_ratio
from rdvla.export import export_policy
from rdvla.export.comparison import random_observation
from rdvla.files import write_json
from rdvla.policy import RDVLAPolicy
from rdvla.runtime import OnnxPolicy
from rdvla.types import Observation, Prediction

TIMER = "uint8 frames, proprioception and instruction in memory -> actions in robot units; time.perf_counter"
WAYS = ("torch", "onnx")


def measure(folder: str, *, ways: Sequence[str], rounds: int, warmup: int) -> dict[str, Any]:
    """Measure a policy in every way, and the two halves of its query in torch."""
    policy = RDVLAPolicy.from_pretrained(folder)
    observation = random_observation(policy).select([0])
    start = policy.initial_state(1, torch.Generator().manual_seed(0)).detach()
    inputs = policy.frozen_inputs(observation)
    context = policy.context_from(inputs, policy.normalize_state(observation.state))
    calls: dict[str, Callable[[], object]] = {
        "torch": lambda: policy.predict(observation, initial_state=start),
        "torch: frames to features": torch.no_grad()(
            lambda: policy.context_from(
                policy.frozen_inputs(observation), policy.normalize_state(observation.state)
            )
        ),
        "torch: head": lambda: policy.engine.predict(context, stop=policy.stop, initial_state=start),
    }
    depths = {"torch": policy.predict(observation, initial_state=start).depth.tolist()}
    if "onnx" in ways:
        calls["onnx"] = predict = _export(policy, observation, start)
        depths["onnx"] = predict().depth.tolist()
    samples = interleave(calls, rounds=rounds, warmup=warmup)
    rows = [
        {
            "what": name,
            "ms": (spread := Spread.of(times)).median,
            "spread_ms": [spread.low, spread.high],
            "ratio": paired_ratio(samples["torch"], times).median,
            "depth": depths.get(name),
        }
        for name, times in samples.items()
    ]
    return {"policy": Path(folder).name, "rounds": rounds, "rows": rows}


def _export(policy: RDVLAPolicy, observation: Observation, start: torch.Tensor) -> Callable[[], Prediction]:
    with tempfile.TemporaryDirectory() as folder:
        export_policy(policy, Path(folder) / "policy")
        exported = OnnxPolicy.load(Path(folder) / "policy", threads=torch.get_num_threads())
    arrays, initial_state = observation.numpy(), start.numpy()
    return lambda: exported.predict(arrays, initial_state=initial_state)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.query", description=__doc__)
    parser.add_argument("policies", nargs="+", help="folders of policies with a compact backbone")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/query.json"))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--warmup", type=int, default=200, help="rounds before the measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"a whole query, batch 1, {options.threads} thread(s); {TIMER}")
    policies = []
    for folder in options.policies:
        policies.append(measure(folder, ways=options.ways, rounds=options.rounds, warmup=options.warmup))
        print(policies[-1]["policy"])
        for row in policies[-1]["rows"]:
            depth = "" if row["depth"] is None else f"  depth {row['depth'][0]}"
            low, high = row["spread_ms"]
            print(f"  {row['what']:<26} {row['ms']:>7.1f} ms ({low:.1f}..{high:.1f}){depth}", flush=True)
    write_json(options.output, {"schema": 1, "timer": TIMER, "hardware": hardware(), "policies": policies})
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
