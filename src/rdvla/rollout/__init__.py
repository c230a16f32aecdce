"""Episodes and the workers that run them, for evaluations and demonstrations alike.

`episode` holds the loop. `pool` runs many episodes in workers, which `processes` starts. If a policy acts,
`worker` is the simulator's side of an episode and `queries` the policy's. Workers do not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.rollout.attendance import Attendance, Recording
    from rdvla.rollout.attended import MakeRecorder, held
    from rdvla.rollout.episode import (
        Actor,
        Decision,
        Environment,
        EpisodeEnd,
        MakeEnvironment,
        OpenEnvironment,
        Origin,
        Recorder,
        TimeStep,
        run_episode,
    )
    from rdvla.rollout.jobs import EpisodeJob, Schedule, ServedQueries, Setting, starting_seed
    from rdvla.rollout.local import roll_out
    from rdvla.rollout.opening import Opened, OpeningJob, open_each
    from rdvla.rollout.pool import Failed, Finished, Later, Question, run_jobs
    from rdvla.rollout.processes import LocalProcesses
    from rdvla.rollout.queries import Answered, Policy, Queries, Spectator
    from rdvla.rollout.remote import RemotePolicy, roll_out_remote
    from rdvla.rollout.replies import PolicyServerError
    from rdvla.rollout.transport import Line, Link, Transport, serve
    from rdvla.rollout.video import Frame, read_frames, write_video
    from rdvla.rollout.worker import (
        EpisodeResult,
        EpisodeRunner,
        Outcome,
        Reply,
        run_episode_job,
    )
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "Actor",
    "Answered",
    "Attendance",
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
    "MakeRecorder",
    "OpenEnvironment",
    "Opened",
    "OpeningJob",
    "Origin",
    "Outcome",
    "Policy",
    "PolicyServerError",
    "Queries",
    "Question",
    "Recorder",
    "Recording",
    "RemotePolicy",
    "Reply",
    "Schedule",
    "ServedQueries",
    "Setting",
    "Spectator",
    "TimeStep",
    "Transport",
    "held",
    "open_each",
    "read_frames",
    "roll_out",
    "roll_out_remote",
    "run_episode",
    "run_episode_job",
    "run_jobs",
    "serve",
    "starting_seed",
    "write_video",
]
