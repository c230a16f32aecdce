"""Runs the graph that holds the iteration, under the stop rules of `rdvla.control`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.control import CHANGES, FIXED, NO_LIMIT, STOP_RULES, StopLimits, Stops, limits_of
from rdvla.errors import InputError
from rdvla.inputs import as_initial_state, check_generator, to_numpy
from rdvla.runtime.description import GRAPH, Description
from rdvla.runtime.graph import Array, Graph
from rdvla.types import Prediction

BELOW = "below."  # begins the name of the input that limits a change
STOP_INPUTS = ("min_depth", "max_depth", "last_depth")
# Graphs of schema 2 take one rule per batch, by its number in this order.
SCHEMA_2_RULES = (FIXED, "action_change", "deferred_action_change", "latent_change", "cosine")
SCHEMA_2_STOP_INPUTS = ("rule", "threshold", "coda_below", "min_depth", "max_depth")
ONE_RULE = "this export takes one stop rule per batch: export the policy again for one per sample"


class Solver:
    """Iterates from an initial state until every sample's stop rule is satisfied.

    Args:
        folder: of the export, of a policy or a head.
        description: of the export.
        threads: number of threads that share an operator; onnxruntime's choice if not given.
    """

    def __init__(self, folder: Path, description: Description, *, threads: int | None) -> None:
        self.description = description
        self.graph = Graph(folder / GRAPH, threads=threads)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, without initial state and stop rules."""
        own = {"initial_state", *STOP_INPUTS, *SCHEMA_2_STOP_INPUTS}
        return tuple(name for name in self.graph.inputs if name not in own and not name.startswith(BELOW))

    def __call__(
        self,
        inputs: Mapping[str, Array],
        *,
        batch_size: int,
        stop: Stops | None,
        max_depth: int | Sequence[int] | None,
        initial_state: Array | None,
        generator: np.random.Generator | None,
    ) -> Prediction:
        """Run the graph on `inputs` from `initial_state` (B, K, D), drawn if not given.

        Raises:
            InputError: the initial state has another shape or is not finite, the generator is not numpy's, or
                the graph cannot run the stop rules.
        """
        if initial_state is None:
            initial_state = self.initial_state(batch_size, generator)
        start = to_numpy(as_initial_state(initial_state, shape=self._state_shape(batch_size)))
        limits = limits_of(
            self.description.stop if stop is None else stop, batch_size=batch_size, max_depth=max_depth
        )
        found = self.graph.run({**inputs, "initial_state": start, **self._stop_inputs(limits)})
        return Prediction(found["actions"], found["depth"], found["converged"], found["state"])

    def initial_state(self, batch_size: int, generator: np.random.Generator | None) -> NDArray[np.float32]:
        """Draw S_0, (B, K, D).

        Raises:
            InputError: the generator is not numpy's.
        """
        check_generator(generator, np.random.Generator, example="numpy.random.default_rng(0)")
        return truncated_normal(
            self._state_shape(batch_size),
            std=self.description.initial_state_std,
            generator=generator or np.random.default_rng(),
        )

    def _stop_inputs(self, limits: StopLimits) -> dict[str, Array]:
        if not self.description.stop_per_sample:
            return schema_2_stop_inputs(limits)
        names = (name for name in self.graph.inputs if name.startswith(BELOW))
        return stop_inputs(limits, changes=[name.removeprefix(BELOW) for name in names])

    def _state_shape(self, batch_size: int) -> tuple[int, int, int]:
        return (batch_size, self.description.chunk_size, self.description.hidden_dim)


def stop_inputs(limits: StopLimits, *, changes: Sequence[str]) -> dict[str, Array]:
    """Return stop rules as a graph's inputs: (B,) limits and depths per sample, and the last depth, ().

    Args:
        limits: the stop rules of a batch.
        changes: those that the graph measures.

    Raises:
        InputError: a rule asks for another change.
    """
    for change in limits.below:
        if change not in changes:
            raise InputError(
                f"this export does not measure the {change} that a stop rule asks for, only "
                f"{', '.join(changes)}: export the policy again"
            )
    return {
        **{f"{BELOW}{change}": limit for change, limit in _limits_by_change(limits, changes).items()},
        "min_depth": limits.min_depth,
        "max_depth": limits.max_depth,
        "last_depth": np.array(limits.last, dtype=np.int64),
    }


def schema_2_stop_inputs(limits: StopLimits) -> dict[str, Array]:
    """Return stop rules as the inputs of a graph of schema 2: all of shape ().

    Raises:
        InputError: samples differ in their rules, or these graphs do not know the rule.
    """
    below = _limits_by_change(limits, tuple(CHANGES))
    if any(len(np.unique(array)) > 1 for array in (*below.values(), limits.min_depth, limits.max_depth)):
        raise InputError(ONE_RULE)
    asked = {change for change, limit in below.items() if len(limit) and limit[0] != NO_LIMIT}
    changes = {name: {limit.change for limit in STOP_RULES[name].limits} for name in SCHEMA_2_RULES}
    rule = next((name for name in SCHEMA_2_RULES if changes[name] == asked), None)
    if rule is None:
        raise InputError(
            f"this export knows the stop rules {', '.join(SCHEMA_2_RULES)} only: export the policy again "
            f"for one that asks for {' and '.join(sorted(asked))}"
        )
    numbers = {limit.parameter: below[limit.change][0] for limit in STOP_RULES[rule].limits}
    first = limits.min_depth[0] if len(limits.min_depth) else limits.last
    return {
        "rule": np.array(SCHEMA_2_RULES.index(rule), dtype=np.int64),
        "threshold": np.array(numbers.get("threshold", 1), dtype=np.float32),
        "coda_below": np.array(numbers.get("coda_below", 1), dtype=np.float32),
        "min_depth": np.array(first, dtype=np.int64),
        "max_depth": np.array(limits.last, dtype=np.int64),
    }


def truncated_normal(
    shape: tuple[int, ...], *, std: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Draw from a normal distribution of mean 0 cut at three standard deviations.

    The distribution is the same as in `RecurrentDepthHead.initial_state`. The numbers are not, because numpy
    and torch have different generators.
    """
    numbers = generator.standard_normal(shape)
    while (outside := np.abs(numbers) > 3).any():
        numbers[outside] = generator.standard_normal(int(outside.sum()))
    return (std * numbers).astype(np.float32)


def _limits_by_change(limits: StopLimits, changes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    no_limit = np.full(len(limits.min_depth), NO_LIMIT)
    return {change: limits.below.get(change, no_limit).astype(np.float32) for change in changes}
