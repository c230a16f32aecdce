"""Judges a prediction: how uncertain it is, and whether a person should be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rdvla.types import Prediction


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one prediction."""

    uncertainty: float  # higher: more likely to fail
    band: float | None = None  # value above which help is asked for; None: not calibrated
    help_requested: bool = False


class Judge(Protocol):
    """Judges the queries of one robot, in order."""

    def judge(self, prediction: Prediction, *, max_depth: int) -> Judgement:
        """Judge a single prediction, whose stop rule allowed `max_depth` iterations."""
        ...

    def reset(self) -> None:
        """Forget the episode."""
        ...


class DepthJudge:
    """The share of the allowed iterations that was used: a raw signal without a band, so it never asks."""

    def judge(self, prediction: Prediction, *, max_depth: int) -> Judgement:
        """See `Judge.judge`."""
        return Judgement(uncertainty=int(prediction.depth) / max_depth)

    def reset(self) -> None:
        """See `Judge.reset`; every query is judged alone."""
