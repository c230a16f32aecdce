"""Runs a recurrent-depth head fast: solver, compiled code, products of few rows, ahead-of-time code.

Heads never import it. The plain loop `RecurrentDepthHead.predict` is the specification that it is held to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.engine.aoti.load import load_compiled
    from rdvla.engine.engine import Engine, Predictor, compile, engine_for, recurrent
    from rdvla.engine.schedule import Schedule
    from rdvla.engine.solver import solve
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = ["Engine", "Predictor", "Schedule", "compile", "engine_for", "load_compiled", "recurrent", "solve"]
