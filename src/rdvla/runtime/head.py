"""An exported head: features of any backbone in, normalised actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rdvla.control import Stops
from rdvla.errors import InputError, RDVLAError
from rdvla.inputs import as_numbers, to_numpy
from rdvla.runtime.description import read_description
from rdvla.runtime.solver import Solver
from rdvla.types import Array, Prediction, check_actions


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
        features: Mapping[str, Array],
        *,
        stop: Stops | None = None,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Array | None = None,
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
            InputError: a feature is missing, or it or the initial state has another shape or no numbers;
                or an action is not finite.
        """
        missing = [name for name in self.features if name not in features]
        if missing:
            raise InputError(f"features lack {missing[0]!r}; the head takes {', '.join(self.features)}")
        used = {
            name: to_numpy(as_numbers(features[name], name=f"features[{name!r}]")) for name in self.features
        }
        batch = used["proprio"].shape[0] if used["proprio"].ndim else 0
        for name, value in used.items():
            width = self._solver.graph.shapes[name][2]
            if value.ndim != 3 or len(value) != batch or value.shape[2] != width:
                raise InputError(f"features[{name!r}] must be ({batch}, tokens, {width}), got {value.shape}")
        prediction = self._solver(
            used,
            batch_size=batch,
            stop=stop,
            max_depth=max_depth,
            initial_state=initial_state,
            generator=generator,
        )
        check_actions(prediction, state=used["proprio"])
        return prediction
