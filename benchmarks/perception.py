"""How well a compact backbone locates things: `python -m benchmarks.perception POLICY DATASET`.

Prints, for each instruction, the median and 90th percentile distance in cm between the simulator's state and
what the backbone reads off the images of held-out episodes (the split that training used).
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from rdvla.data import EpisodeDataset, split_episodes
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.types import Observation

# Positions in the environment's state, by its length: MetaWorld's and LIBERO's.
PARTS = {
    9: {"object - hand": slice(0, 3), "object": slice(3, 6), "goal": slice(6, 9)},
    18: {
        "subject": slice(0, 3),
        "target": slice(3, 6),
        "second subject": slice(6, 9),
        "second target": slice(9, 12),
    },
}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", help="folder of a policy whose backbone has a read-out")
    parser.add_argument("dataset", help="dataset with observation.environment_state")
    parser.add_argument("--every", type=int, default=6, help="take every n-th sample")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = RDVLAPolicy.from_pretrained(options.policy)
    dataset = EpisodeDataset(options.dataset, chunk_size=1, cameras=policy.config.cameras)
    parts = _parts(dataset)
    _, held_out = split_episodes(dataset, 0.1, 0)
    rows = dataset.subset(held_out).sample_index[:: options.every]
    errors = 100 * torch.cat([_errors(policy, dataset, rows[i : i + 64]) for i in range(0, len(rows), 64)])
    instructions = dataset.instructions(rows)
    print(f"{'instruction':<92}{'n':>5}" + "".join(f"{name + ' (median, 90%)':>30}" for name in parts))
    for sentence in sorted(set(instructions)):
        own = errors[[found == sentence for found in instructions]]
        cells = [
            own[:, part].norm(dim=1).quantile(torch.tensor([0.5, 0.9])).tolist() for part in parts.values()
        ]
        print(f"{sentence:<92}{len(own):>5}" + "".join(f"{f'{a:.1f}, {b:.1f} cm':>30}" for a, b in cells))


def _parts(dataset: EpisodeDataset) -> dict[str, slice]:
    """The positions in the environment's state of a dataset, which is told by its length."""
    state = dataset.environment_state([0])
    size = 0 if state is None else state.shape[1]
    if size not in PARTS:
        known = " or ".join(map(str, PARTS))
        raise ConfigError(
            f"observation.environment_state of {dataset.name} has {size} numbers; this benchmark knows what "
            f"{known} numbers are. Name them in PARTS."
        )
    return PARTS[size]


@torch.no_grad()
def _errors(policy: RDVLAPolicy, dataset: EpisodeDataset, rows: Tensor) -> Tensor:
    """(n, E) metres."""
    statistics = policy.statistics["observation.environment_state"]
    observation = Observation(
        images=dataset.images(rows), state=dataset.state(rows), instruction=dataset.instructions(rows)
    )
    features = policy.backbone.features(policy.frozen_inputs(observation))
    seen = policy.backbone.predict_environment_state(features)
    truth = dataset.environment_state(rows)
    assert truth is not None
    return seen * torch.tensor(statistics["std"]) + torch.tensor(statistics["mean"]) - truth


if __name__ == "__main__":
    main()
