"""The exported iteration, alone: features of any backbone in, normalised actions out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import InputError, RDVLAError
from rdvla.runtime.description import GRAPH, Description, read_description
from rdvla.runtime.noise import truncated_normal
from rdvla.runtime.prediction import Prediction
from rdvla.runtime.session import Array, Session
from rdvla.runtime.stop import Stop


class Solver:
    """The graph that both kinds of export have: inputs, an initial state and a stop rule to a prediction."""

    def __init__(self, folder: Path, description: Description, *, threads: int | None) -> None:
        self.description = description
        self.session = Session(folder / GRAPH, threads=threads)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        *,
        batch: int,
        depth: int | str | Stop | None,
        initial_state: NDArray[np.float32] | None,
        generator: np.random.Generator | None,
    ) -> Prediction:
        """Run the graph from `initial_state` (B, K, D), or one that is drawn."""
        if initial_state is None:
            initial_state = self.initial_state(batch, generator)
        if initial_state.shape != self._shape(batch):
            raise InputError(f"initial_state must be {self._shape(batch)}, got {initial_state.shape}")
        stop = self.description.stop if depth is None else Stop.of(depth)
        start = {"initial_state": initial_state.astype(np.float32, copy=False)}
        found = self.session.run({**inputs, **start, **stop.feeds()})
        return Prediction(found["actions"], found["depth"], found["converged"], found["state"])

    def initial_state(self, batch: int, generator: np.random.Generator | None) -> NDArray[np.float32]:
        """S_0, (B, K, D)."""
        std = self.description.initial_state_std
        return truncated_normal(self._shape(batch), std=std, generator=generator or np.random.default_rng())

    def _shape(self, batch: int) -> tuple[int, int, int]:
        return (batch, self.description.chunk_size, self.description.hidden_dim)


class OnnxHead:
    """A head exported with `rdvla export --part head`.

    Raises:
        RDVLAError: see `load`.
    """

    def __init__(self, solver: Solver) -> None:
        self.description = solver.description
        self._solver = solver
        own = {"initial_state", *Stop.fixed(1).feeds()}
        self.features = tuple(name for name in solver.session.inputs if name not in own)

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> OnnxHead:
        """Open an export.

        Args:
            folder: that `rdvla export --part head` wrote.
            threads: that share one operator; onnxruntime's choice if not given.

        Raises:
            RDVLAError: onnxruntime is not installed, or a file is missing, damaged or of a whole policy.
        """
        folder = Path(folder)
        description = read_description(folder)
        if description.part != "head":
            raise RDVLAError(f"{folder} holds a whole policy: load it with rdvla.runtime.OnnxPolicy")
        return cls(Solver(folder, description, threads=threads))

    def __call__(
        self,
        features: Mapping[str, NDArray[np.float32]],
        *,
        depth: int | str | Stop | None = None,
        initial_state: NDArray[np.float32] | None = None,
        generator: np.random.Generator | None = None,
    ) -> Prediction:
        """Iterate to a fixed depth, or until a stop rule is satisfied for each sample by itself.

        Args:
            features: by name, see `features`: "vision.LEVEL" (B, M, C) and "latents.LEVEL" (B, L, C) for
                every level that a block reads, and "proprio" (B, 1, C).
            depth: number of iterations, a rule, or its text; the policy's if not given.
            initial_state: S_0, (B, K, D); drawn if not given.
            generator: where S_0 is drawn from.

        Raises:
            InputError: a feature or the initial state is missing or has another shape.
        """
        missing = [name for name in self.features if name not in features]
        if missing:
            raise InputError(f"features lack {missing[0]!r}; the head takes {', '.join(self.features)}")
        batch = len(features["proprio"])
        used = {name: features[name].astype(np.float32, copy=False) for name in self.features}
        for name, value in used.items():
            width = self._solver.session.shapes[name][2]
            if value.ndim != 3 or len(value) != batch or value.shape[2] != width:
                raise InputError(f"features[{name!r}] must be ({batch}, tokens, {width}), got {value.shape}")
        return self._solver(used, batch=batch, depth=depth, initial_state=initial_state, generator=generator)
