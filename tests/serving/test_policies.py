"""Policies behind numpy: what shares a batch in an export whose graph takes one rule for all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rdvla.serving.policies import ExportedPolicy
from rdvla.types import Prediction
from tests.support.served_double import FACTS, make_query


@dataclass
class OlderExport:
    """Echoes S_0, and notes the deadlines of every batch. A deadline ends its whole batch at depth 1."""

    description: Any = field(default_factory=lambda: SimpleNamespace(stop_per_sample=False))
    batches: list[list[float | None]] = field(default_factory=list)

    def predict(self, observations: Any, *, initial_state: Any, deadline: Any, **rules: Any) -> Prediction:
        assert len(set(map(str, rules["stop"]))) == 1, "these graphs take one rule"
        self.batches.append(list(deadline))
        size = len(observations)
        depth = 4 if deadline == [None] * size else 1
        return Prediction(initial_state, np.full(size, depth), np.full(size, depth == 4), initial_state)


def test_a_deadline_cuts_no_other_querys_depth_where_a_graph_takes_one_rule_per_batch():
    export = OlderExport()
    deadlines = [None, 9e9, None, 8e9]
    queries = [make_query(number, deadline=deadline) for number, deadline in enumerate(deadlines)]
    answers = ExportedPolicy(export, FACTS).predict(queries)
    assert export.batches == [[8e9], [9e9], [None, None]]
    assert [int(answer.prediction.depth) for answer in answers] == [4, 1, 4, 1]
    for query, answer in zip(queries, answers, strict=True):
        np.testing.assert_array_equal(answer.prediction.state, query.initial_state)


@pytest.mark.parametrize("stop_per_sample", [True, False])
def test_queries_alike_share_a_batch(stop_per_sample):
    export = OlderExport(SimpleNamespace(stop_per_sample=stop_per_sample))
    ExportedPolicy(export, FACTS).predict([make_query(number) for number in range(3)])
    assert export.batches == [[None] * 3]


def test_rules_that_differ_are_batches_of_their_own():
    export = OlderExport()
    queries = [replace(make_query(number), stop=stop) for number, stop in enumerate(["2", "3", "2"])]
    answers = ExportedPolicy(export, FACTS).predict(queries)
    assert export.batches == [[None] * 2, [None]]
    assert [answer.batch_size for answer in answers] == [3, 3, 3]
