"""`rdvla eval`."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    """Run a policy in closed loop at several depths and write results.json."""
    from rdvla.config import load_config
    from rdvla.evaluation import EvaluationConfig, evaluate

    evaluate(load_config(EvaluationConfig, argv, prog="rdvla eval"))
