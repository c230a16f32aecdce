"""The live page: what every query saw and decided, and the place where a person steps in. No torch.

`events` are published to a `Hub`. `LivePage` shows the hub to browsers, inside the policy server or behind a
`LiveServer` of its own; `RerunLog` writes it to Rerun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.live.events import Event, QueryEvent, RobotEvent, RobotFacts, StepEvent
    from rdvla.live.hub import Hub, RobotView, Row, Watcher
    from rdvla.live.page import LivePage
    from rdvla.live.rerun import RerunLog
    from rdvla.live.standalone import LiveServer
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="serve")

__all__ = [
    "Event",
    "Hub",
    "LivePage",
    "LiveServer",
    "QueryEvent",
    "RerunLog",
    "RobotEvent",
    "RobotFacts",
    "RobotView",
    "Row",
    "StepEvent",
    "Watcher",
]
