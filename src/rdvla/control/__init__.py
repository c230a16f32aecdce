"""How a policy is run: when to stop iterating, how much of a chunk to execute, a robot's state. No torch."""

from rdvla.control.costs import BatchCosts
from rdvla.control.desk import CAUSES, PHASES, Cause, Desk, Phase, Place
from rdvla.control.execution import (
    EXECUTION_RULES,
    BinaryHorizon,
    ExecutionRule,
    FixedHorizon,
    LinearDecay,
    as_execution,
    check_fits,
    execution_help,
    execution_text,
    parse_execution,
)
from rdvla.control.judge import DepthJudge, Judge, Judgement
from rdvla.control.limits import Deadlines, StopLimits, Stops, deadlines_of, limits_of
from rdvla.control.session import Session
from rdvla.control.start import StartKind, WarmStart, as_start, split_start
from rdvla.control.stop import (
    CHANGES,
    FIXED,
    NO_LIMIT,
    STOP_RULES,
    Stop,
    as_stop,
    parse_stop,
    stop_help,
    stop_text,
)

__all__ = [
    "CAUSES",
    "CHANGES",
    "EXECUTION_RULES",
    "FIXED",
    "NO_LIMIT",
    "PHASES",
    "STOP_RULES",
    "BatchCosts",
    "BinaryHorizon",
    "Cause",
    "Deadlines",
    "DepthJudge",
    "Desk",
    "ExecutionRule",
    "FixedHorizon",
    "Judge",
    "Judgement",
    "LinearDecay",
    "Phase",
    "Place",
    "Session",
    "StartKind",
    "Stop",
    "StopLimits",
    "Stops",
    "WarmStart",
    "as_execution",
    "as_start",
    "as_stop",
    "check_fits",
    "deadlines_of",
    "execution_help",
    "execution_text",
    "limits_of",
    "parse_execution",
    "parse_stop",
    "split_start",
    "stop_help",
    "stop_text",
]
