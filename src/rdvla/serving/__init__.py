"""The policy server: openpi's protocol, many robots at once, deadlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.serving.config import LayoutMapping, ServeConfig
    from rdvla.serving.endpoint import Endpoint
    from rdvla.serving.layouts import Layout
    from rdvla.serving.queries import Answer, BusyError, PolicyFacts, PolicyFront, Query, ServedPolicy
    from rdvla.serving.server import PolicyServer
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "Answer",
    "BusyError",
    "Endpoint",
    "Layout",
    "LayoutMapping",
    "PolicyFacts",
    "PolicyFront",
    "PolicyServer",
    "Query",
    "ServeConfig",
    "ServedPolicy",
]
