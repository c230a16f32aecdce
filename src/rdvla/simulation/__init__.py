"""Simulated robot tasks behind Gymnasium's interface, and scripted experts that demonstrate them."""

from rdvla.simulation.registry import (
    default_tasks,
    make,
    make_expert,
    official_states,
    resolve_tasks,
    step_limit,
    tasks,
)

__all__ = ["default_tasks", "make", "make_expert", "official_states", "resolve_tasks", "step_limit", "tasks"]
