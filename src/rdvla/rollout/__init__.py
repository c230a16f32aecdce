"""Episodes and the workers that run them, for evaluations and demonstrations alike.

`episode` holds the loop. `pool` runs many episodes in workers, which `processes` starts. If a policy acts,
`worker` is the simulator's side of an episode and `queries` the policy's. Workers do not import torch.
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
        OpenEnvironment,
        Recorder,
        TimeStep,
        run_episode,
    )
    from rdvla.rollout.jobs import EpisodeJob, Schedule, Setting, starting_seed
    from rdvla.rollout.opening import Opened, OpeningJob, open_each
    from rdvla.rollout.pool import Failed, Finished, Later, Question, run_jobs
    from rdvla.rollout.processes import LocalProcesses
    from rdvla.rollout.queries import Outcome, Policy, roll_out
    from rdvla.rollout.transport import Line, Link, Transport, serve
    from rdvla.rollout.video import Frame, read_frames, write_video
    from rdvla.rollout.worker import EpisodeResult, EpisodeRunner, Reply, run_episode_job
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
    "Later",
    "Line",
    "Link",
    "LocalProcesses",
    "MakeEnvironment",
    "OpenEnvironment",
    "Opened",
    "OpeningJob",
    "Outcome",
    "Policy",
    "Question",
    "Recorder",
    "Reply",
    "Schedule",
    "Setting",
    "TimeStep",
    "Transport",
    "open_each",
    "read_frames",
    "roll_out",
    "run_episode",
    "run_episode_job",
    "run_jobs",
    "serve",
    "starting_seed",
    "write_video",
]
