"""What goes into a policy and what comes out of it: the same for torch and numpy, one sample or a batch.

Imports neither torch nor numpy when it is imported: robots that talk to a server need no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from rdvla.errors import InputError, nearest

Array: TypeAlias = Any  # numpy.ndarray or torch.Tensor; the fields' comments give shape and dtype
T = TypeVar("T")


@dataclass(frozen=True)
class Observation:
    """What a robot or a simulator shows a policy, in the robot's units.

    Either a batch of B observations, with a leading B in every array and B instructions, or a single one,
    without that dimension and with one instruction.

    Raises:
        InputError: shapes, types and the number of instructions do not go together.
    """

    images: Mapping[str, Array]  # camera -> (B, H, W, 3) or (H, W, 3) uint8, RGB, the right way up
    state: Array  # (B, S) or (S,) proprioception
    instruction: Sequence[str] | str  # B sentences, or one

    def __post_init__(self) -> None:
        batch = () if isinstance(self.instruction, str) else (len(self.instruction),)
        state = tuple(self.state.shape)
        if len(state) != len(batch) + 1 or state[: len(batch)] != batch:
            wanted = f"({batch[0]}, S)" if batch else "(S,)"
            said = f"{batch[0]} instructions" if batch else "a single instruction"
            raise InputError(
                f"state must be {wanted} to go with {said}, got {state}; a batch has a list of instructions, "
                "a single observation one sentence"
            )
        for camera, image in self.images.items():
            shape = tuple(image.shape)
            fits = len(shape) == len(batch) + 3 and shape[: len(batch)] == batch and shape[-1] == 3
            if not fits or str(image.dtype).removeprefix("torch.") != "uint8":
                wanted = ", ".join(map(str, (*batch, "height", "width", 3)))
                raise InputError(f"images[{camera!r}] must be ({wanted}) uint8, got {shape} {image.dtype}")

    @property
    def is_batch(self) -> bool:
        """Whether the arrays have a leading batch dimension."""
        return not isinstance(self.instruction, str)

    @property
    def batch_size(self) -> int:
        """B; 1 for a single observation."""
        return 1 if isinstance(self.instruction, str) else len(self.instruction)

    def batched(self) -> Observation:
        """Return the observation as a batch: itself, or a batch of one."""
        if not isinstance(self.instruction, str):
            return self
        images = {camera: image[None] for camera, image in self.images.items()}
        return Observation(images, self.state[None], [self.instruction])

    def select(self, samples: Sequence[int]) -> Observation:
        """Return a batch with some samples of this batch, in the given order."""
        batch, index = self.batched(), list(samples)
        images = {camera: image[index] for camera, image in batch.images.items()}
        return Observation(images, batch.state[index], [batch.instruction[sample] for sample in index])

    @staticmethod
    def collate(observations: Sequence[Observation]) -> Observation:
        """Join batches and single observations, all with the same cameras and sizes, into one batch.

        Raises:
            InputError: there are none, or their cameras differ.
        """
        if not observations:
            raise InputError("there is no observation to collate")
        batches = [observation.batched() for observation in observations]
        cameras = batches[0].images.keys()
        if any(other.images.keys() != cameras for other in batches):
            raise InputError("observations that are batched together must have the same cameras")
        return Observation(
            images={camera: concatenate([b.images[camera] for b in batches]) for camera in cameras},
            state=concatenate([b.state for b in batches]),
            instruction=[sentence for b in batches for sentence in b.instruction],
        )

    def torch(self) -> Observation:
        """Return the observation with torch tensors."""
        return _convert(self, to_torch)

    def numpy(self) -> Observation:
        """Return the observation with numpy arrays."""
        return _convert(self, to_numpy)

    def check(self, *, cameras: Sequence[str], image_size: int, state_dim: int) -> None:
        """Check that a policy with these inputs can take the observation. Nothing is resized or guessed.

        Args:
            cameras: which must be there.
            image_size: height and width of their images in pixels.
            state_dim: S.

        Raises:
            InputError: a camera is missing, an image or the state has another size, or the state is not
                finite.
        """
        for camera in cameras:
            if camera not in self.images:
                raise InputError(
                    f"the observation lacks the camera {camera!r}; it has {sorted(self.images)}."
                    f"{nearest(camera, self.images)}"
                )
            height, width = self.images[camera].shape[-3:-1]
            if (height, width) != (image_size, image_size):
                raise InputError(
                    f"camera {camera!r} gives {width}x{height} images, the policy was trained on "
                    f"{image_size}x{image_size}: set the camera to that size, or resize before calling the "
                    "policy"
                )
        check_state(self.state, state_dim=state_dim)


@dataclass(frozen=True)
class Trace:
    """What happened in each of T iterations; NaN after a sample stopped, and in a change's first entry."""

    actions: Array  # (T, B, K, A), decoded from every state
    changes: Mapping[str, Array]  # name in `rdvla.control.CHANGES` -> (T, B)

    @property
    def action_change(self) -> Array:
        """Mean squared change of the actions, (T, B)."""
        return self.changes["action_change"]

    @property
    def latent_change(self) -> Array:
        """Relative change of the latent state, (T, B)."""
        return self.changes["latent_change"]

    @property
    def cosine_change(self) -> Array:
        """One minus the cosine between successive states, (T, B)."""
        return self.changes["cosine_change"]


@dataclass(frozen=True)
class Prediction:
    """One action chunk per sample, and how it came about; no B if the observation was a single one."""

    actions: Array  # (B, K, A); normalised units from a head, the robot's units from a policy
    depth: Array  # (B,) int64, k*: iterations used
    converged: Array  # (B,) bool: the stop rule was satisfied; False if the maximum depth ended it
    state: Array  # (B, K, D), the final latent state S_k*
    trace: Trace | None = None  # on request

    def sample(self, index: int) -> Prediction:
        """Return one sample of a batch, without the batch dimension."""
        trace = self.trace
        if trace is not None:
            changes = {name: change[:, index] for name, change in trace.changes.items()}
            trace = Trace(trace.actions[:, index], changes)
        return Prediction(
            self.actions[index], self.depth[index], self.converged[index], self.state[index], trace
        )

    def select(self, samples: Sequence[int]) -> Prediction:
        """Return some samples of a batch, as a batch, without the trace."""
        index = list(samples)
        return Prediction(self.actions[index], self.depth[index], self.converged[index], self.state[index])

    def with_actions(self, convert: Any) -> Prediction:
        """Return the prediction with `convert` applied to its actions, those of the trace included."""
        trace = self.trace
        if trace is not None:
            trace = replace(trace, actions=convert(trace.actions))
        return replace(self, actions=convert(self.actions), trace=trace)


def check_state(state: Array, *, state_dim: int) -> None:
    """Check proprioception, (B, S) or (S,).

    Raises:
        InputError: S is not `state_dim`, or a number is not finite.
    """
    if state.shape[-1] != state_dim:
        raise InputError(f"the policy takes {state_dim} numbers of proprioception, got {state.shape[-1]}")
    if not bool((abs(state) < math.inf).all()):  # NaN is not below infinity either
        raise InputError("the proprioception holds NaN or infinite numbers: check the robot's sensors")


def to_torch(array: Array) -> Array:
    """Return a torch tensor that shares the array's memory if it can."""
    import torch

    return torch.as_tensor(array)


def to_numpy(array: Array) -> Array:
    """Return a numpy array that shares the tensor's memory if it can."""
    import numpy as np

    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def concatenate(arrays: Sequence[Array]) -> Array:
    """Join arrays of one kind along their first dimension."""
    if hasattr(arrays[0], "detach"):
        import torch

        return torch.cat(list(arrays))
    import numpy as np

    return np.concatenate(arrays)


def stack(arrays: Sequence[Array], *, axis: int = 0) -> Array:
    """Join arrays of one kind and shape along a new dimension."""
    if hasattr(arrays[0], "detach"):
        import torch

        return torch.stack(list(arrays), dim=axis)
    import numpy as np

    return np.stack(arrays, axis=axis)


def _convert(observation: Observation, convert: Any) -> Observation:
    return replace(
        observation,
        images={camera: convert(image) for camera, image in observation.images.items()},
        state=convert(observation.state),
    )
