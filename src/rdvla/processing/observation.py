"""What a robot or a simulator shows the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdvla.inputs import check_batch


@dataclass(frozen=True)
class Observation:
    """A batch of B observations, in the units of the robot."""

    images: Mapping[str, Tensor]  # camera -> (B, H, W, 3) uint8, RGB, the right way up
    state: Tensor  # (B, S) float32, proprioception
    instruction: Sequence[str]  # B sentences

    def __post_init__(self) -> None:
        check_batch(self.images, self.state, self.instruction)

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.instruction)

    def select(self, rows: Sequence[int]) -> Observation:
        """Some samples of the batch, in the given order."""
        index = torch.as_tensor(rows)
        return Observation(
            images={camera: image[index] for camera, image in self.images.items()},
            state=self.state[index],
            instruction=[self.instruction[row] for row in rows],
        )

    @staticmethod
    def collate(observations: Sequence[Observation]) -> Observation:
        """Join several batches (all with the same cameras and sizes) into one."""
        if not observations:
            raise ValueError("there is no observation to collate")
        cameras = observations[0].images.keys()
        if any(other.images.keys() != cameras for other in observations):
            raise ValueError("observations that are batched together must have the same cameras")
        return Observation(
            images={camera: torch.cat([o.images[camera] for o in observations]) for camera in cameras},
            state=torch.cat([o.state for o in observations]),
            instruction=[sentence for o in observations for sentence in o.instruction],
        )
