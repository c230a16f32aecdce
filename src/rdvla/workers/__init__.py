"""Workers that do jobs at the same time: episodes, demonstrations, features of frames.

`pool` hands jobs out and answers what they ask; its `crew` survives deaths. `transport` says how it talks to
a worker: `processes` runs workers on this machine, `ray` on a cluster, where `actor` is the far side.
`choice` reads the option `workers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.workers.choice import WorkerChoice, parse_workers
    from rdvla.workers.ends import Failed, Finished, Later, Question
    from rdvla.workers.pool import run_jobs
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
    "WorkerChoice",
    "parse_workers",
    "run_jobs",
    "serve",
]
