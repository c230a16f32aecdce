"""What goes into a policy and what comes out of it: the same for torch and numpy, one sample or a batch.

Imports neither torch nor numpy when it is imported: robots that talk to a server need no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdvla.errors import InputError, NotFiniteError, nearest
from rdvla.inputs import (
    Array,
    as_images,
    as_instructions,
    as_state,
    concatenate,
    is_finite,
    to_numpy,
    to_torch,
)

__all__ = [
    "Array", "Observation", "Prediction", "Trace", "as_observation", "check_actions", "check_state",
    "is_single",
]  # fmt: skip


@dataclass(frozen=True)
class Observation:
    """What a robot or a simulator shows a policy, in the robot's units.

    Either a batch of B observations, with a leading B in every array and B instructions, or a single one,
    without that dimension and with one instruction. In a batch of one, an array or the instruction may lack
    the dimension.

    Images may be numpy arrays, torch tensors, PIL images or lists of these, with their three colours last or
    first if that can be told apart. They must be uint8. The state may be an array, a tensor or a list of
    numbers. The attributes hold what became of them: tensors, or numpy arrays of all else.

    Raises:
        InputError: shapes, types and the number of instructions do not go together.
    """

    images: Mapping[str, Array]  # camera -> (B, H, W, 3) or (H, W, 3) uint8, RGB, the right way up
    state: Array  # (B, S) or (S,) float32, proprioception
    instruction: Sequence[str] | str  # B sentences, or one

    def __post_init__(self) -> None:
        sentences, state = as_instructions(self.instruction), as_state(self.state)
        images = as_images(self.images)
        forms = [(state, 2), *((image, 4) for image in images.values())]
        if any(array.ndim == batched and len(array) == 1 for array, batched in forms):
            sentences = [sentences] if isinstance(sentences, str) else sentences
        if not isinstance(sentences, str) and len(sentences) == 1:
            state = state if state.ndim == 2 else state[None]
            images = {camera: image if image.ndim == 4 else image[None] for camera, image in images.items()}
        _check_sizes(images, state, sentences)
        for name, value in (("images", images), ("state", state), ("instruction", sentences)):
            object.__setattr__(self, name, value)

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
            InputError: there are none, or their cameras or sizes differ.
        """
        if not observations:
            raise InputError("there is no observation to collate")
        batches = [observation.batched() for observation in observations]
        cameras = batches[0].images.keys()
        if any(other.images.keys() != cameras for other in batches):
            raise InputError("observations that are batched together must have the same cameras")
        for name, arrays in (
            ("state", [batch.state for batch in batches]),
            *((f"images[{camera!r}]", [batch.images[camera] for batch in batches]) for camera in cameras),
        ):
            first, *others = dict.fromkeys(tuple(array.shape[1:]) for array in arrays)
            if others:
                raise InputError(
                    f"observations that are batched together must have the same sizes, but {name} is "
                    f"{first} in one and {others[0]} in another"
                )
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
            self.check_size(camera, image_size=image_size)
        check_state(self.state, state_dim=state_dim)

    def camera(self, name: str) -> Array:
        """Return a camera's images.

        Raises:
            InputError: there is no such camera; the nearest name is suggested.
        """
        if name not in self.images:
            raise InputError(
                f"the observation lacks the camera {name!r}; it has {sorted(self.images)}."
                f"{nearest(name, self.images)}"
            )
        return self.images[name]

    def check_size(self, camera: str, *, image_size: int) -> None:
        """Check that a camera's images are squares of this size, in pixels.

        Raises:
            InputError: they are not, or there is no such camera.
        """
        height, width = self.camera(camera).shape[-3:-1]
        if (height, width) != (image_size, image_size):
            raise InputError(
                f"camera {camera!r} gives {width}x{height} images, the policy was trained on "
                f"{image_size}x{image_size}: set the camera to that size, or resize before calling the policy"
            )


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


def as_observation(value: Any) -> Observation:
    """Return an observation as it is.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, Observation):
        raise InputError(
            f"a policy takes an Observation(images, state, instruction) of rdvla, got {type(value).__name__}"
        )
    return value


def is_single(observation: Observation | Sequence[Observation]) -> bool:
    """Whether it is one observation, neither a batch nor a list."""
    return isinstance(observation, Observation) and not observation.is_batch


def check_actions(prediction: Prediction, *, state: Array) -> None:
    """Check what is about to move a robot.

    Args:
        prediction: of a policy.
        state: (B, S) proprioception that it saw, for the message.

    Raises:
        NotFiniteError: an action is NaN or infinite.
    """
    if is_finite(prediction.actions):
        return
    largest = f" (its largest number is {float(abs(state).max()):.3g})" if state.shape[-1] else ""
    error = NotFiniteError(
        f"the policy computed actions that are NaN or infinite: check what the robot sends{largest} and the "
        "initial state against the policy's training data; if they are as usual, the policy is broken"
    )
    error.prediction = prediction
    raise error


def check_state(state: Array, *, state_dim: int) -> None:
    """Check proprioception, (B, S) or (S,).

    Raises:
        InputError: S is not `state_dim`, or a number is not finite.
    """
    if state.shape[-1] != state_dim:
        raise InputError(f"the policy takes {state_dim} numbers of proprioception, got {state.shape[-1]}")
    if not is_finite(state):
        raise InputError("the proprioception holds NaN or infinite numbers: check the robot's sensors")


def _convert(observation: Observation, convert: Any) -> Observation:
    return replace(
        observation,
        images={camera: convert(image) for camera, image in observation.images.items()},
        state=convert(observation.state),
    )


def _check_sizes(images: Mapping[str, Array], state: Array, sentences: list[str] | str) -> None:
    batch = () if isinstance(sentences, str) else (len(sentences),)
    if batch == (0,):
        raise InputError("the observation is an empty batch: give at least one instruction")
    if state.ndim != len(batch) + 1 or tuple(state.shape[:-1]) != batch:
        wanted = f"({batch[0]}, S)" if batch else "(S,)"
        said = f"{batch[0]} instructions" if batch else "a single instruction"
        raise InputError(
            f"state must be {wanted} to go with {said}, got {tuple(state.shape)}; a batch has a list of "
            "instructions, a single observation one sentence"
        )
    for camera, image in images.items():
        if tuple(image.shape[:-3]) != batch:
            wanted = ", ".join(map(str, (*batch, "height", "width", 3)))
            raise InputError(
                f"images[{camera!r}] must be ({wanted}) to go with the instruction and the state, "
                f"got {tuple(image.shape)}"
            )
