"""`rdvla eval`."""

from __future__ import annotations

import shlex
import sys

from rdvla.errors import optional
from rdvla.evaluation.config import EvaluationConfig
from rdvla.files import check_writable
from rdvla.simulation.registry import simulator_extra

EPISODES_MISSING = 1  # exit status: there are results, but not of every episode


def run(config: EvaluationConfig) -> int:
    """Run a policy in closed loop at several depths and write results.json."""
    check_writable(config.output, option="output", folder=True)
    with optional(simulator_extra(config.env)):
        from rdvla.evaluation import evaluate, load_results

    results = evaluate(config)
    missing = sum(episode.error is not None for episode in load_results(results).episodes)
    print(f"written: {results}")
    print(f"next: rdvla report {shlex.quote(str(results.parent))}")
    if missing:
        print(
            f"rdvla: {missing} episodes ended with an exception and have no outcome: {results} holds the "
            "tracebacks, and the same command plays them again",
            file=sys.stderr,
        )
        return EPISODES_MISSING
    return 0
