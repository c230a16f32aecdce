"""Do momentum or Anderson acceleration of the latent state save iterations? A measurement on demonstrations.

    python -m benchmarks.acceleration policies/libero_goal datasets/libero_goal

All updates run on the same samples, from the same noise, under the paper's stop rule: the plain iteration
S <- f(S), and two methods for fixed-point equations. The table says for each how many iterations it took. It
also says how far its actions are from the plain iteration's at depth 64, and from the demonstrated ones. An
update may leave the states that the core was trained on, so fewer iterations are worth nothing if these two
distances grow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import hardware
from rdvla.engine import recurrent
from rdvla.files import write_json
from rdvla.heads import RecurrentDepthHead
from rdvla.heads.recurrent.model import EncodedContext
from rdvla.policy import RDVLAPolicy
from rdvla.training.samples import observe, open_samples, spread_frames

DELTA, MAX_DEPTH, FINAL_DEPTH = 1e-3, 32, 64
Update = Callable[[list[Tensor], list[Tensor]], Tensor]  # states S and their images f(S) -> the next state


def plain(states: list[Tensor], images: list[Tensor]) -> Tensor:
    """Return S_k = f(S_{k-1})."""
    del states
    return images[-1]


def momentum(beta: float) -> Update:
    """Return the update S_k = f(S_{k-1}) + beta (f(S_{k-1}) - S_{k-1})."""

    def update(states: list[Tensor], images: list[Tensor]) -> Tensor:
        return images[-1] + beta * (images[-1] - states[-1])

    return update


def anderson(memory: int) -> Update:
    """Return the update to the mix of last images whose residuals f(S) - S cancel best, for each sample.

    See Walker and Ni, 2011.
    """

    def update(states: list[Tensor], images: list[Tensor]) -> Tensor:
        kept = min(memory + 1, len(states))
        if kept < 2:
            return images[-1]
        recent = torch.stack(images[-kept:], dim=1)  # (B, m, K, D)
        residuals = (recent - torch.stack(states[-kept:], dim=1)).flatten(2)  # (B, m, K D)
        gram = residuals @ residuals.transpose(1, 2)
        scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        ridge = (1e-4 * scale + 1e-12) * torch.eye(kept)
        weights = torch.linalg.solve(gram + ridge, torch.ones(len(gram), kept, 1))
        weights = weights / weights.sum(dim=1, keepdim=True)
        return (recent * weights[:, :, :, None]).sum(dim=1)

    return update


UPDATES: dict[str, Update] = {
    "plain": plain,
    "momentum 0.1": momentum(0.1),
    "momentum 0.3": momentum(0.3),
    "Anderson, 1 earlier": anderson(1),
    "Anderson, 2 earlier": anderson(2),
}


def run(
    head: RecurrentDepthHead, encoded: EncodedContext, start: Tensor, update: Update
) -> tuple[Tensor, Tensor]:
    """Return actions (B, K, A) and depths (B,) once every sample's actions change by less than `DELTA`."""
    states: list[Tensor] = [start]
    images: list[Tensor] = []
    previous = actions = torch.full((len(start), 1, 1), torch.nan)
    result: Tensor | None = None
    depth = torch.full((len(start),), MAX_DEPTH)
    running = torch.ones(len(start), dtype=torch.bool)
    for k in range(1, MAX_DEPTH + 1):
        images.append(head.iterate(states[-1], encoded))
        actions = head.decode(images[-1], encoded)
        result = actions if result is None else torch.where(running[:, None, None], actions, result)
        stopped = running & ((actions - previous).square().mean(dim=(1, 2)) < DELTA)
        depth[stopped] = k
        running &= ~stopped
        previous = actions
        states.append(update(states, images))
    assert result is not None
    return result, depth


@torch.no_grad()
def measure(policy: RDVLAPolicy, dataset: str, *, samples: int, batch: int = 32) -> list[dict[str, Any]]:
    """Measure every update on the same samples."""
    head = recurrent(policy.head)
    data = open_samples(policy, dataset, camera_names={}, resize=False)
    frames = spread_frames(data, at_most=samples)
    found: dict[str, list[Tensor]] = {name: [] for name in UPDATES}
    for first in range(0, len(frames), batch):
        chosen = frames[first : first + batch]
        observation = observe(data, chosen)
        context = policy.context_from(
            policy.frozen_inputs(observation), policy.normalize_state(observation.state)
        )
        encoded = head.encode(context)
        start = policy.initial_state(len(chosen), torch.Generator().manual_seed(first))
        final = head.predict(context, stop=FINAL_DEPTH, initial_state=start).actions
        target = policy.action_normalizer.normalize(data.actions(chosen))
        exists = ~data.action_is_pad(chosen)
        for name, update in UPDATES.items():
            actions, depth = run(head, encoded, start, update)
            distance = (actions - final).square().mean(dim=(1, 2)).sqrt()
            error = ((actions - target).abs().mean(dim=2) * exists).sum(dim=1) / exists.sum(dim=1)
            found[name].append(torch.stack([depth.float(), distance, error], dim=1))
    table = {name: torch.cat(batches) for name, batches in found.items()}
    return [
        {
            "step": name,
            "samples": len(values),
            "iterations": float(values[:, 0].mean()),
            "from_depth_64_rms": float(values[:, 1].mean()),
            "from_demonstration_l1": float(values[:, 2].mean()),
        }
        for name, values in table.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acceleration", description=__doc__)
    parser.add_argument("policy", help="folder of a policy")
    parser.add_argument("dataset", help="folder of a LeRobot dataset")
    parser.add_argument("--samples", type=int, default=512, help="evenly spread over it (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/acceleration.json"))
    options = parser.parse_args(argv)
    rows = measure(RDVLAPolicy.from_pretrained(options.policy), options.dataset, samples=options.samples)
    print(f"{'update':<22} {'iterations':>10} {'from depth 64':>14} {'from demonstration':>19}")
    for row in rows:
        print(
            f"{row['step']:<22} {row['iterations']:>10.2f} {row['from_depth_64_rms']:>14.4f} "
            f"{row['from_demonstration_l1']:>19.4f}"
        )
    write_json(options.output, {"schema": 1, "hardware": hardware(), "rows": rows})
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
