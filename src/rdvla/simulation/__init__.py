"""Simulated robot tasks behind Gymnasium's interface, and scripted experts that demonstrate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.simulation.registry import (
        default_tasks,
        make,
        make_expert,
        official_states,
        resolve_tasks,
        step_limit,
        tasks,
    )
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="eval")

__all__ = ["default_tasks", "make", "make_expert", "official_states", "resolve_tasks", "step_limit", "tasks"]
