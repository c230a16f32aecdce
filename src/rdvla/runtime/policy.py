"""An exported policy: an observation in, an action chunk in the robot's units out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.control import (
    BatchCosts,
    Deadlines,
    Session,
    Stops,
    WarmStart,
    deadlines_of,
    limits_of,
    parse_execution,
)
from rdvla.errors import RDVLAError
from rdvla.inputs import as_seed
from rdvla.processing.text import InstructionCheck
from rdvla.runtime.description import read_description
from rdvla.runtime.graph import Array
from rdvla.runtime.instructions import Instructions
from rdvla.runtime.solver import Solver
from rdvla.types import Observation, Prediction, as_observation, check_actions, is_single


class OnnxPolicy:
    """A policy exported with `rdvla export`; acts like the `RDVLAPolicy` that it was made from.

    Example:
        >>> policy = OnnxPolicy.load("exported")
        >>> prediction = policy.predict(Observation({"front": image}, state, "push the puck"))
        >>> prediction.actions, prediction.depth
    """

    def __init__(
        self, solver: Solver, instructions: Instructions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.description = solver.description
        self.execution = parse_execution(self.description.execution)
        self.warm_start = WarmStart(self.description.start)  # type: ignore[arg-type]  # checked by the class
        self._solver = solver
        self._instructions = instructions
        self._clock, self._costs = clock, BatchCosts()
        self._check_instructions = InstructionCheck()
        self.session: Session
        self.reset()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        threads: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> OnnxPolicy:
        """Open an export.

        Args:
            folder: written by `rdvla export`.
            threads: number of threads that share an operator; onnxruntime's choice if not given.
            clock: tells the time in seconds, for deadlines.

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
            clock=clock,
        )

    def predict(
        self,
        observation: Observation | Sequence[Observation],
        *,
        stop: Stops | None = None,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Array | None = None,
        generator: np.random.Generator | None = None,
        deadline: Deadlines = None,
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
            deadline: when the prediction should be ready, in seconds of `time.monotonic()`; one, or one or
                None per sample. The graph cannot be interrupted, so the time left becomes a maximum depth, at
                least 1, by what earlier predictions of this object have cost. The first one keeps none.

        Returns:
            The prediction; without the batch dimension for a single observation.

        Raises:
            InputError: a camera is missing, an image, the state or the initial state has the wrong size or
                type, the state or an action is not finite, or an instruction is too long.

        Warns:
            UnknownInstructionWarning: the policy was not trained on an instruction; once for each.
        """
        began = self._clock()
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
        deadlines = deadlines_of(deadline, batch_size=batch.batch_size)
        if deadlines is not None:
            allowed = limits_of(
                description.stop if stop is None else stop, batch_size=len(deadlines), max_depth=max_depth
            )
            max_depth = self._depths_within(
                [each - began for each in deadlines], allowed=allowed.max_depth.tolist()
            )
        prediction = self._solver(
            inputs,
            batch_size=batch.batch_size,
            stop=stop,
            max_depth=max_depth,
            initial_state=initial_state,
            generator=generator,
        )
        # The graph computes every sample until the last one stops.
        check_actions(prediction, state=batch.state)
        deepest = int(prediction.depth.max())
        self._costs.add([deepest] * batch.batch_size, self._clock() - began)
        return prediction.sample(0) if is_single(observation) else prediction

    def _depths_within(self, seconds: Sequence[float], *, allowed: Sequence[int]) -> list[int]:
        """Return the depths, of those that are allowed, which the samples of a batch reach in their time."""
        depths = [
            min(depth, self._costs.depth_within(left, samples=len(seconds)))
            for left, depth in zip(seconds, allowed, strict=True)
        ]
        return depths if self.description.stop_per_sample else [min(depths)] * len(depths)

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
