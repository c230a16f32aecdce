"""Episodes and the workers that play them, for evaluations and demonstrations alike.

`episode` plays one, `pool` runs many in workers that `processes` starts; `worker` and `queries` are the two
sides of an episode whose actions a policy gives. Workers import none of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.rollout.episode import (
        Actor,
        Decision,
        Environment,
        EpisodeEnd,
        MakeEnvironment,
        Moment,
        OpenEnvironment,
        Recorder,
        play,
    )
    from rdvla.rollout.jobs import EpisodeJob, Schedule, Setting
    from rdvla.rollout.pool import Failed, Finished, Question, run_jobs
    from rdvla.rollout.processes import LocalProcesses
    from rdvla.rollout.queries import Outcome, Policy, roll_out, starting_seed
    from rdvla.rollout.transport import Line, Link, Transport, serve
    from rdvla.rollout.video import Frame, read_frames, write_video
    from rdvla.rollout.worker import EpisodeResult, EpisodeRunner, Query, Reply, play_job
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "Actor",
    "Decision",
    "Environment",
    "EpisodeEnd",
    "EpisodeJob",
    "EpisodeResult",
    "EpisodeRunner",
    "Failed",
    "Finished",
    "Frame",
    "Line",
    "Link",
    "LocalProcesses",
    "MakeEnvironment",
    "Moment",
    "OpenEnvironment",
    "Outcome",
    "Policy",
    "Query",
    "Question",
    "Recorder",
    "Reply",
    "Schedule",
    "Setting",
    "Transport",
    "play",
    "play_job",
    "read_frames",
    "roll_out",
    "run_jobs",
    "serve",
    "starting_seed",
    "write_video",
]
