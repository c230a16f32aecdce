"""An exported head: features of any backbone in, normalised actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.control import Stops
from rdvla.errors import InputError, RDVLAError
from rdvla.runtime.description import read_description
from rdvla.runtime.solver import Solver
from rdvla.types import Prediction


class OnnxHead:
    """A head exported with `rdvla export --part head`; `load` opens it."""

    def __init__(self, solver: Solver) -> None:
        self.description = solver.description
        self.features = solver.inputs
        self._solver = solver

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> OnnxHead:
        """Open an export.

        Args:
            folder: written by `rdvla export --part head`.
            threads: number of threads that share an operator; onnxruntime's choice if not given.

        Raises:
            RDVLAError: onnxruntime is not installed, a file is missing or damaged, or the export is of a
                whole policy.
        """
        folder = Path(folder)
        description = read_description(folder)
        if description.part != "head":
            raise RDVLAError(f"{folder} holds a whole policy: load it with rdvla.runtime.OnnxPolicy")
        return cls(Solver(folder, description, threads=threads))

    def predict(
        self,
        features: Mapping[str, NDArray[np.float32]],
        *,
        stop: Stops | None = None,
        max_depth: int | Sequence[int] | None = None,
        initial_state: NDArray[np.float32] | None = None,
        generator: np.random.Generator | None = None,
    ) -> Prediction:
        """Iterate until every sample's own stop rule is satisfied.

        Args:
            features: by name, see the attribute `features`: "vision.LEVEL" (B, M, C) and "latents.LEVEL"
                (B, L, C) for every level that a block reads, and "proprio" (B, 1, C).
            stop: a depth, a stop rule, its text, or one of these per sample; the export's if not given.
            max_depth: a depth at which samples end whatever their rule says; one, or one per sample.
            initial_state: S_0, (B, K, D); drawn if not given.
            generator: source of S_0.

        Returns:
            The prediction, with actions (B, K, A) in normalised units.

        Raises:
            InputError: a feature or the initial state is missing or has another shape.
        """
        missing = [name for name in self.features if name not in features]
        if missing:
            raise InputError(f"features lack {missing[0]!r}; the head takes {', '.join(self.features)}")
        batch = len(features["proprio"])
        used = {name: features[name].astype(np.float32, copy=False) for name in self.features}
        for name, value in used.items():
            width = self._solver.graph.shapes[name][2]
            if value.ndim != 3 or len(value) != batch or value.shape[2] != width:
                raise InputError(f"features[{name!r}] must be ({batch}, tokens, {width}), got {value.shape}")
        return self._solver(
            used,
            batch_size=batch,
            stop=stop,
            max_depth=max_depth,
            initial_state=initial_state,
            generator=generator,
        )
