"""The exported iteration: features of any backbone in, normalised actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.control import CHANGES, FIXED, NO_LIMIT, STOP_RULES, StopLimits, Stops, limits_of
from rdvla.errors import InputError, RDVLAError
from rdvla.runtime.description import GRAPH, Description, read_description
from rdvla.runtime.graph import Array, Graph
from rdvla.types import Prediction

# The order in which graphs of schema 2 number the rules.
SCHEMA_2_RULES = (FIXED, "action_change", "deferred_action_change", "latent_change", "cosine")
LIMIT_INPUTS = (*(f"below.{change}" for change in CHANGES), "min_depth", "max_depth", "last_depth")
SCHEMA_2_INPUTS = ("rule", "threshold", "coda_below", "min_depth", "max_depth")


class Solver:
    """The graph of an export, of a head or a whole policy: inputs, S_0 and stop rules to a prediction."""

    def __init__(self, folder: Path, description: Description, *, threads: int | None) -> None:
        self.description = description
        self.graph = Graph(folder / GRAPH, threads=threads)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        *,
        batch: int,
        stop: Stops | None,
        max_depth: int | Sequence[int] | None,
        initial_state: NDArray[np.float32] | None,
        generator: np.random.Generator | None,
    ) -> Prediction:
        """Run the graph from `initial_state` (B, K, D), or one that is drawn."""
        if initial_state is None:
            initial_state = self.initial_state(batch, generator)
        if initial_state.shape != self._shape(batch):
            raise InputError(f"initial_state must be {self._shape(batch)}, got {initial_state.shape}")
        limits = limits_of(
            self.description.stop if stop is None else stop, batch_size=batch, max_depth=max_depth
        )
        start = {"initial_state": initial_state.astype(np.float32, copy=False)}
        found = self.graph.run({**inputs, **start, **self._limit_inputs(limits)})
        return Prediction(found["actions"], found["depth"], found["converged"], found["state"])

    def initial_state(self, batch: int, generator: np.random.Generator | None) -> NDArray[np.float32]:
        """Draw S_0, (B, K, D)."""
        std = self.description.initial_state_std
        return truncated_normal(self._shape(batch), std=std, generator=generator or np.random.default_rng())

    def _shape(self, batch: int) -> tuple[int, int, int]:
        return (batch, self.description.chunk_size, self.description.hidden_dim)

    def _limit_inputs(self, limits: StopLimits) -> dict[str, NDArray[np.generic]]:
        batch = len(limits.min_depth)
        below = {
            change: np.asarray(limits.below.get(change, np.full(batch, NO_LIMIT)), dtype=np.float32)
            for change in CHANGES
        }
        if self.description.stop_per_sample:
            return {
                **{f"below.{change}": limit for change, limit in below.items()},
                "min_depth": limits.min_depth,
                "max_depth": limits.max_depth,
                "last_depth": np.array(limits.last, dtype=np.int64),
            }
        return _schema_2_inputs(limits, below)


def _schema_2_inputs(
    limits: StopLimits, below: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.generic]]:
    arrays = (*below.values(), limits.min_depth, limits.max_depth)
    if any(len(np.unique(array)) > 1 for array in arrays):
        raise InputError(
            "this export takes one stop rule per batch: export the policy again for one per sample"
        )
    asked = {change for change, limit in below.items() if len(limit) and limit[0] != NO_LIMIT}
    rule = next(name for name in SCHEMA_2_RULES if {x.change for x in STOP_RULES[name].limits} == asked)
    numbers = {limit.parameter: below[limit.change][0] for limit in STOP_RULES[rule].limits}
    last = limits.last
    return {
        "rule": np.array(SCHEMA_2_RULES.index(rule), dtype=np.int64),
        "threshold": np.array(numbers.get("threshold", 1), dtype=np.float32),
        "coda_below": np.array(numbers.get("coda_below", 1), dtype=np.float32),
        "min_depth": np.array(limits.min_depth[0] if len(limits.min_depth) else last, dtype=np.int64),
        "max_depth": np.array(last, dtype=np.int64),
    }


def truncated_normal(
    shape: tuple[int, ...], *, std: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Draw from a normal distribution of mean 0 cut at three standard deviations.

    It is the distribution of `RecurrentDepthHead.initial_state` but not its numbers, as numpy and torch have
    different generators.
    """
    numbers = generator.standard_normal(shape)
    while (outside := np.abs(numbers) > 3).any():
        numbers[outside] = generator.standard_normal(int(outside.sum()))
    return (std * numbers).astype(np.float32)


class OnnxHead:
    """A head exported with `rdvla export --part head`.

    Raises:
        RDVLAError: see `load`.
    """

    def __init__(self, solver: Solver) -> None:
        self.description = solver.description
        self._solver = solver
        own = {"initial_state", *LIMIT_INPUTS, *SCHEMA_2_INPUTS}
        self.features = tuple(name for name in solver.graph.inputs if name not in own)

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
            features: by name, see `features`: "vision.LEVEL" (B, M, C) and "latents.LEVEL" (B, L, C) for
                every level that a block reads, and "proprio" (B, 1, C).
            stop: a depth, a stop rule, its text, or one of these per sample; the export's if not given.
            max_depth: a depth at which samples end whatever their rule says; one, or one per sample.
            initial_state: S_0, (B, K, D); drawn if not given.
            generator: source of S_0.

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
            batch=batch,
            stop=stop,
            max_depth=max_depth,
            initial_state=initial_state,
            generator=generator,
        )
