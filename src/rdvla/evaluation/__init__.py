"""Closed-loop evaluation: every setting on the same episodes, statistics, tables and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.evaluation.comparison import compare_runs
    from rdvla.evaluation.config import EvaluationConfig, find_setting
    from rdvla.evaluation.lines import load_side
    from rdvla.evaluation.profile_picture import draw_profiles
    from rdvla.evaluation.protocol import Suite, resolve_suites
    from rdvla.evaluation.records import Episode, EpisodeError, ResultsError, Row
    from rdvla.evaluation.report import write_report
    from rdvla.evaluation.results import Results, combine, load_results
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
    __getattr__, __dir__ = load_lazily(
        __name__, extra="eval", extras={"rdvla.evaluation.profile_picture": "report"}
    )

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
    "combine",
    "compare_runs",
    "draw_profiles",
    "evaluate",
    "evaluate_policy",
    "find_setting",
    "load_results",
    "load_side",
    "mcnemar_exact",
    "paired_test",
    "print_table",
    "resolve_suites",
    "wilson_interval",
    "write_report",
]
