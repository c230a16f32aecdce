"""How well a compact backbone locates things: `python -m benchmarks.perception POLICY DATASET`.

Prints, for each instruction, how far the positions that the backbone sees are from the simulator's, in cm:
median and 90th percentile over held-out episodes (the split that training used).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data import EpisodeDataset, split_episodes
from rdvla.data.features import ENVIRONMENT_STATE, current_name
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training.samples import observe

# Positions in the environment's state, by the state's length: MetaWorld's and LIBERO's.
POSITIONS = {
    9: {"object - hand": slice(0, 3), "object": slice(3, 6), "goal": slice(6, 9)},
    18: {
        "subject": slice(0, 3),
        "target": slice(3, 6),
        "second subject": slice(6, 9),
        "second target": slice(9, 12),
    },
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", help="folder of a policy whose backbone has a read-out")
    parser.add_argument("dataset", help="dataset with privileged.environment_state")
    parser.add_argument("--every", type=int, default=6, help="take every n-th sample")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = RDVLAPolicy.from_pretrained(options.policy)
    dataset = EpisodeDataset(options.dataset, chunk_size=1, cameras=policy.config.cameras)
    positions = positions_of(dataset)
    _, held_out = split_episodes(dataset, 0.1, 0)
    frames = dataset.subset(held_out).sample_index[:: options.every]
    errors = 100 * torch.cat(
        [_errors(policy, dataset, frames[i : i + 64]) for i in range(0, len(frames), 64)]
    )
    instructions = dataset.instructions(frames)
    print(f"{'instruction':<92}{'n':>5}" + "".join(f"{name + ' (median, 90%)':>30}" for name in positions))
    for sentence in sorted(set(instructions)):
        own = errors[[found == sentence for found in instructions]]
        cells = [
            own[:, axes].norm(dim=1).quantile(torch.tensor([0.5, 0.9])).tolist()
            for axes in positions.values()
        ]
        print(f"{sentence:<92}{len(own):>5}" + "".join(f"{f'{a:.1f}, {b:.1f} cm':>30}" for a, b in cells))


def positions_of(dataset: EpisodeDataset) -> dict[str, slice]:
    """Return the positions in a dataset's environment state, told apart by its length.

    Raises:
        ConfigError: the state has another length.
    """
    state = dataset.environment_state([0])
    size = 0 if state is None else state.shape[1]
    if size not in POSITIONS:
        known = " or ".join(map(str, POSITIONS))
        raise ConfigError(
            f"{ENVIRONMENT_STATE} of {dataset.name} has {size} numbers; this benchmark knows what "
            f"{known} numbers are. Name them in POSITIONS."
        )
    return POSITIONS[size]


@torch.no_grad()
def _errors(policy: RDVLAPolicy, dataset: EpisodeDataset, frames: NDArray[np.int64]) -> Tensor:
    """Return seen minus true state, (n, E), metres."""
    statistics = _of_environment_state(policy)
    features = policy.backbone.features(policy.frozen_inputs(policy.config.fits(observe(dataset, frames))))
    seen = policy.backbone.predict_environment_state(features)
    truth = dataset.environment_state(frames)
    assert truth is not None
    return seen * torch.tensor(statistics["std"]) + torch.tensor(statistics["mean"]) - truth


def _of_environment_state(policy: RDVLAPolicy) -> Mapping[str, Any]:
    return {current_name(name): entry for name, entry in policy.statistics.items()}[ENVIRONMENT_STATE]


if __name__ == "__main__":
    main()
