"""Loaded policies that answer batches of queries: in torch, or in onnxruntime without torch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rdvla.control import Stop, limits_of, parse_stop
from rdvla.control.stop import LARGEST_DEPTH
from rdvla.errors import NotFiniteError
from rdvla.inputs import as_seed, to_numpy
from rdvla.serving.queries import Answer, EndedBy, PolicyFacts, Query
from rdvla.types import Prediction

if TYPE_CHECKING:
    from rdvla.heads import ActionHead
    from rdvla.policy import RDVLAPolicy
    from rdvla.runtime import Description, OnnxPolicy


class TorchFront:
    """Draws S_0 as a policy in torch does; see `PolicyFront`."""

    def __init__(self, head: ActionHead, facts: PolicyFacts) -> None:
        self.facts = facts
        self._head = head

    def initial_state(self, seed: int | None = None) -> NDArray[np.float32]:
        """See `PolicyFront.initial_state`: the same S_0 as `RDVLAPolicy.initial_state` from this seed."""
        import torch

        generator = None if seed is None else torch.Generator().manual_seed(as_seed(seed))
        with torch.no_grad():
            state: NDArray[np.float32] = self._head.initial_state(1, generator)[0].float().cpu().numpy()
        return state


class TorchPolicy(TorchFront):
    """A policy in torch, its head plain or compiled; see `ServedPolicy`."""

    def __init__(self, policy: RDVLAPolicy, facts: PolicyFacts) -> None:
        super().__init__(policy.head, facts)
        self._policy = policy

    def front(self) -> TorchFront:
        """See `ServedPolicy.front`."""
        return TorchFront(copy.deepcopy(self._policy.head).cpu(), self.facts)

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """See `ServedPolicy.predict`."""
        return _answer(self._policy, self.facts, queries)


class OnnxFront:
    """Draws S_0 as an exported policy does; see `PolicyFront`."""

    def __init__(self, description: Description, facts: PolicyFacts) -> None:
        self.facts = facts
        self._description = description

    def initial_state(self, seed: int | None = None) -> NDArray[np.float32]:
        """See `PolicyFront.initial_state`: the same S_0 as `OnnxPolicy.initial_state` from this seed."""
        from rdvla.runtime.solver import truncated_normal

        described = self._description
        return truncated_normal(
            (described.chunk_size, described.hidden_dim),
            std=described.initial_state_std,
            generator=np.random.default_rng(None if seed is None else as_seed(seed)),
        )


class ExportedPolicy(OnnxFront):
    """A policy exported as ONNX graphs; see `ServedPolicy`."""

    def __init__(self, policy: OnnxPolicy, facts: PolicyFacts) -> None:
        super().__init__(policy.description, facts)
        self._policy = policy

    def front(self) -> OnnxFront:
        """See `ServedPolicy.front`."""
        return OnnxFront(self._description, self.facts)

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """See `ServedPolicy.predict`."""
        if self._description.stop_per_sample or len(queries) == 1:
            return _answer(self._policy, self.facts, queries)
        return self._answer_by_rule(queries)

    def _answer_by_rule(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer queries by graphs that take one rule per batch.

        A deadline becomes a depth, so it would cut the depth of every other query of its batch.
        """
        began = time.monotonic()
        alike: dict[object, list[int]] = {}
        for number, query in enumerate(queries):
            rule = (query.stop, query.max_depth)
            alike.setdefault(rule if query.deadline is None else number, []).append(number)
        answers: dict[int, Answer] = {}
        # Batches by rule come last, as nothing makes them hurry.
        for numbers in sorted(alike.values(), key=lambda those: queries[those[0]].deadline or math.inf):
            found = _answer(self._policy, self.facts, [queries[number] for number in numbers])
            answers |= zip(numbers, found, strict=True)
        spent = 1000 * (time.monotonic() - began)
        return [
            replace(answers[number], inference_ms=spent, batch_size=len(queries))
            for number in range(len(queries))
        ]


def _answer(policy: RDVLAPolicy | OnnxPolicy, facts: PolicyFacts, queries: Sequence[Query]) -> list[Answer]:
    began = time.monotonic()
    stops = [parse_stop(facts.stop if query.stop is None else query.stop) for query in queries]
    depths = [LARGEST_DEPTH if query.max_depth is None else query.max_depth for query in queries]
    try:
        prediction = policy.predict(
            [query.observation for query in queries],
            stop=stops,
            max_depth=depths,
            initial_state=np.stack([query.initial_state for query in queries]),
            deadline=[query.deadline for query in queries],
        )
    except NotFiniteError as error:  # each robot's connection looks at its own actions
        prediction = error.prediction
    found = _in_numpy(prediction)
    allowed = _allowed(stops, depths, iterates=facts.iterates)
    spent = 1000 * (time.monotonic() - began)
    return [
        Answer(
            prediction=sample,
            ended_by=_ended_by(sample, max_depth=max_depth),
            max_depth=max_depth,
            waiting_ms=0.0,  # known to whoever kept the queries waiting
            inference_ms=spent,
            batch_size=len(queries),
        )
        for sample, max_depth in zip(map(found.sample, range(len(queries))), allowed, strict=True)
    ]


def _in_numpy(prediction: Prediction) -> Prediction:
    arrays: tuple[Any, ...] = (prediction.actions, prediction.depth, prediction.converged, prediction.state)
    return Prediction(*map(to_numpy, arrays))


def _allowed(stops: Sequence[Stop], depths: Sequence[int], *, iterates: bool) -> list[int]:
    if not iterates:
        return [1] * len(stops)
    found: list[int] = limits_of(stops, batch_size=len(stops), max_depth=depths).max_depth.tolist()
    return found


def _ended_by(sample: Prediction, *, max_depth: int) -> EndedBy:
    if sample.converged:
        return "converged"
    return "max_depth" if int(sample.depth) >= max_depth else "deadline"
