"""Simulated robot tasks behind Gymnasium's interface, and scripted experts that demonstrate them."""

from rdvla.simulation.registry import make, make_expert, resolve_tasks, tasks

__all__ = ["make", "make_expert", "resolve_tasks", "tasks"]
