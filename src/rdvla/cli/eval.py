"""`rdvla eval`."""

from __future__ import annotations

from rdvla.evaluation.config import EvaluationConfig


def run(config: EvaluationConfig) -> None:
    """Run a policy in closed loop at several depths and write results.json."""
    from rdvla.evaluation import evaluate

    evaluate(config)
