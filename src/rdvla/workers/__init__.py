"""Workers that do jobs at the same time: episodes, demonstrations, features of frames.

`pool` hands jobs out, answers what they ask, and survives deaths. `transport` says how it talks to a worker;
`processes` runs workers on this machine. `cluster` connects to Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.workers.pool import Failed, Finished, Later, Question, run_jobs
    from rdvla.workers.processes import LocalProcesses
    from rdvla.workers.transport import Line, Link, Transport, serve
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "Failed",
    "Finished",
    "Later",
    "Line",
    "Link",
    "LocalProcesses",
    "Question",
    "Transport",
    "run_jobs",
    "serve",
]
