"""`rdvla eval`."""

from __future__ import annotations

from rdvla.errors import optional
from rdvla.evaluation.config import EvaluationConfig
from rdvla.simulation.registry import simulator_extra


def run(config: EvaluationConfig) -> None:
    """Run a policy in closed loop at several depths and write results.json."""
    with optional(simulator_extra(config.env)):
        from rdvla.evaluation import evaluate

    evaluate(config)
