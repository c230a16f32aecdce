"""`rdvla eval`."""

from __future__ import annotations

import shlex

from rdvla.errors import optional
from rdvla.evaluation.config import EvaluationConfig
from rdvla.files import check_writable
from rdvla.simulation.registry import simulator_extra


def run(config: EvaluationConfig) -> None:
    """Run a policy in closed loop at several depths and write results.json."""
    check_writable(config.output, option="output", folder=True)
    with optional(simulator_extra(config.env)):
        from rdvla.evaluation import evaluate

    results = evaluate(config)
    print(f"written: {results}")
    print(f"next: rdvla report {shlex.quote(str(results.parent))}")
