"""Sweeps: many training runs from one file, several at a time, and one report of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.sweep.config import SweepConfig
    from rdvla.sweep.run import SweepResult, sweep
    from rdvla.sweep.trials import Trial, plan
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="train,report")

__all__ = ["SweepConfig", "SweepResult", "Trial", "plan", "sweep"]
