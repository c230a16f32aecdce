"""An exported policy: an observation in, an action chunk in the robot's units out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.control import Session, Stops, WarmStart, parse_execution
from rdvla.errors import RDVLAError
from rdvla.inputs import as_seed
from rdvla.processing.text import InstructionCheck
from rdvla.runtime.description import read_description
from rdvla.runtime.graph import Array
from rdvla.runtime.instructions import Instructions
from rdvla.runtime.solver import Solver
from rdvla.types import Observation, Prediction, as_observation, is_single


class OnnxPolicy:
    """A policy exported with `rdvla export`; acts like the `RDVLAPolicy` that it was made from.

    Example:
        >>> policy = OnnxPolicy.load("exported")
        >>> prediction = policy.predict(Observation({"front": image}, state, "push the puck"))
        >>> prediction.actions, prediction.depth
    """

    def __init__(self, solver: Solver, instructions: Instructions) -> None:
        self.description = solver.description
        self.execution = parse_execution(self.description.execution)
        self.warm_start = WarmStart(self.description.start)  # type: ignore[arg-type]  # checked by the class
        self._solver = solver
        self._instructions = instructions
        self._check_instructions = InstructionCheck()
        self.session: Session
        self.reset()

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> OnnxPolicy:
        """Open an export.

        Args:
            folder: written by `rdvla export`.
            threads: number of threads that share an operator; onnxruntime's choice if not given.

        Raises:
            RDVLAError: onnxruntime is not installed, a file is missing or damaged, or the export is of a head
                alone.
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
        observation: Observation | Sequence[Observation],
        *,
        stop: Stops | None = None,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Array | None = None,
        generator: np.random.Generator | None = None,
    ) -> Prediction:
        """Return one action chunk per sample, in the robot's units, as numpy arrays.

        Args:
            observation: a batch of B observations, a single one, or a list of single ones, whose images may
                differ in size.
            stop: iterations, a stop rule, its text, or one of these per sample; the policy's if not given.
            max_depth: a depth at which samples end whatever their rule says; one, or one per sample.
            initial_state: S_0, (B, K, D), or (K, D) for a single observation, such as the last prediction's
                state; drawn if not given.
            generator: source of S_0.

        Returns:
            The prediction; without the batch dimension for a single observation.

        Raises:
            InputError: a camera is missing, an image, the state or the initial state has the wrong size or
                type, the state is not finite, or an instruction is too long.

        Warns:
            UnknownInstructionWarning: the policy was not trained on an instruction; once for each.
        """
        description = self.description
        batch = description.fits.batch(observation).numpy()
        batch.check(
            cameras=description.cameras,
            image_size=description.image_size,
            state_dim=description.state_dim,
        )
        self._check_instructions(batch.instruction, trained=description.instructions)
        inputs: dict[str, Array] = {
            "images": np.stack([batch.images[camera] for camera in description.cameras], axis=1),
            "text": self._instructions.encode(batch.instruction),
            "proprioception": batch.state,
        }
        prediction = self._solver(
            inputs,
            batch_size=batch.batch_size,
            stop=stop,
            max_depth=max_depth,
            initial_state=initial_state,
            generator=generator,
        )
        return prediction.sample(0) if is_single(observation) else prediction

    def select_action(self, observation: Observation) -> NDArray[np.float32]:
        """Return every robot's next action in its units: (B, A), or (A,) for a single observation.

        The policy is queried only for robots that have executed the last chunk.

        Raises:
            InputError: see `predict`; no action is used up then.
        """
        observation = as_observation(observation)
        batch = observation.numpy().batched()
        actions = np.stack(self.session.act(self, batch, generator=self._generator))
        return actions if observation.is_batch else actions[0]

    def initial_state(
        self, batch_size: int, generator: np.random.Generator | None = None
    ) -> NDArray[np.float32]:
        """Draw S_0 for `predict`, (B, K, D)."""
        return self._solver.initial_state(batch_size, generator)

    def reset(self, seed: int | None = None, *, robots: Sequence[int] | None = None) -> None:
        """Forget actions and states, between episodes.

        Args:
            seed: makes the initial states repeatable.
            robots: those of a batch whose episodes begin anew, while the others go on; all if not given.
        """
        if robots is not None:
            self.session.reset(robots)
            return
        self.session = Session(self.execution, self.warm_start)
        self._generator = np.random.default_rng(None if seed is None else as_seed(seed))
