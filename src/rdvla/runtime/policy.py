"""An exported policy: an observation in, an action chunk in the robot's units out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.action_queue import ActionQueue
from rdvla.errors import RDVLAError
from rdvla.execution import parse_execution
from rdvla.inputs import check_batch, check_cameras, check_state
from rdvla.runtime.description import read_description
from rdvla.runtime.head import Solver
from rdvla.runtime.instruction import Instructions
from rdvla.runtime.prediction import Prediction
from rdvla.runtime.session import Array
from rdvla.runtime.stop import Stop
from rdvla.warm_start import LastStates, WarmStart

Images = Mapping[str, NDArray[np.uint8]]
State = NDArray[np.float32]


class OnnxPolicy:
    """A policy exported with `rdvla export`; acts as the `RDVLAPolicy` that it was made from.

    Example:
        >>> policy = OnnxPolicy.load("exported")
        >>> prediction = policy.predict({"front": image}, state, ["push the puck"])
        >>> prediction.actions, prediction.depth
    """

    def __init__(self, solver: Solver, instructions: Instructions) -> None:
        self.description = solver.description
        self.execution = parse_execution(self.description.execution)
        self._warm_start = WarmStart(self.description.start)  # type: ignore[arg-type]  # checked by the class
        self._solver = solver
        self._instructions = instructions
        self.reset()

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> OnnxPolicy:
        """Open an export.

        Args:
            folder: that `rdvla export` wrote.
            threads: that share one operator; onnxruntime's choice if not given.

        Raises:
            RDVLAError: onnxruntime is not installed, or a file is missing, damaged or of a head alone.
        """
        folder = Path(folder)
        description = read_description(folder)
        if description.part != "policy":
            raise RDVLAError(f"{folder} holds a head alone: load it with rdvla.runtime.OnnxHead")
        return cls(
            Solver(folder, description, threads=threads),
            Instructions(folder, description, threads=threads),
        )

    def predict(
        self,
        images: Images,
        state: State,
        instruction: Sequence[str],
        *,
        depth: int | str | Stop | None = None,
        initial_state: NDArray[np.float32] | None = None,
        generator: np.random.Generator | None = None,
    ) -> Prediction:
        """One action chunk a sample, in the robot's units.

        Args:
            images: camera -> (B, H, W, 3) uint8, RGB, the right way up.
            state: (B, S) proprioception in the robot's units.
            instruction: B sentences.
            depth: number of iterations, a rule, or its text; the policy's if not given.
            initial_state: S_0, (B, K, D), such as the state of the prediction before; drawn if not given.
            generator: where S_0 is drawn from.

        Raises:
            InputError: a camera is missing, an image, the state or the initial state has the wrong size or
                type, the state is not finite, or an instruction is too long.
        """
        description = self.description
        check_batch(images, state, instruction)
        check_cameras(images, cameras=description.cameras, image_size=description.image_size)
        check_state(state, state_dim=description.state_dim)
        inputs: dict[str, Array] = {
            "images": np.stack([images[camera] for camera in description.cameras], axis=1),
            "text": self._instructions.read(instruction),
            "proprioception": state.astype(np.float32, copy=False),
        }
        return self._solver(
            inputs, batch=len(instruction), depth=depth, initial_state=initial_state, generator=generator
        )

    def select_action(self, images: Images, state: State, instruction: Sequence[str]) -> NDArray[np.float32]:
        """The next action of every sample, (B, A), real units; predicts only where a chunk has run out.

        Raises:
            InputError: see `predict`; no action is used up then.
        """
        check_batch(images, state, instruction)
        empty = self._queue.empty_rows(len(instruction))
        if empty:
            noise = self._solver.initial_state(len(empty), self._generator)
            prediction = self.predict(
                {camera: image[empty] for camera, image in images.items()},
                state[empty],
                [instruction[row] for row in empty],
                initial_state=self._last_states.initial_state(empty, noise),
            )
            horizon = self.execution.horizon(prediction.depth).tolist()
            self._queue.refill(empty, prediction.actions, horizon)
            self._last_states.keep(empty, prediction.state, horizon)
        return np.stack(self._queue.pop())

    def reset(self, seed: int | None = None) -> None:
        """Forget actions and states, between episodes. A seed makes the initial states repeatable."""
        self._queue = ActionQueue[NDArray[np.float32]]()
        self._last_states = LastStates[NDArray[np.float32]](self._warm_start)
        self._generator = np.random.default_rng(seed)
