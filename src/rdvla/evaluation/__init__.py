"""Closed-loop evaluation: rollouts, depth sweeps, statistics, tables and the report.

Names are imported when they are first used: environment workers import this package too, and would otherwise
each spend seconds and memory on torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.evaluation.config import EvaluationConfig, find_setting, parse_setting
    from rdvla.evaluation.moments import write_moments
    from rdvla.evaluation.paired_runs import compare_runs
    from rdvla.evaluation.protocol import Suite, resolve_suites
    from rdvla.evaluation.records import Episode, EpisodeError, ResultsError, Row
    from rdvla.evaluation.report import write_report
    from rdvla.evaluation.results import Results, join, load_results
    from rdvla.evaluation.run import evaluate, evaluate_policy
    from rdvla.evaluation.statistics import (
        Interval,
        PairedTest,
        mcnemar_exact,
        paired_test,
        wilson_interval,
    )
    from rdvla.evaluation.table import print_table
    from rdvla.rollout.jobs import Setting
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="eval")

__all__ = [
    "Episode",
    "EpisodeError",
    "EvaluationConfig",
    "Interval",
    "PairedTest",
    "Results",
    "ResultsError",
    "Row",
    "Setting",
    "Suite",
    "compare_runs",
    "evaluate",
    "evaluate_policy",
    "find_setting",
    "join",
    "load_results",
    "mcnemar_exact",
    "paired_test",
    "parse_setting",
    "print_table",
    "resolve_suites",
    "wilson_interval",
    "write_moments",
    "write_report",
]
