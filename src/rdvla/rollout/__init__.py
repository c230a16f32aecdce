"""Episodes, for evaluations and demonstrations alike; `rdvla.workers` runs many at the same time.

`episode` holds the loop. If a policy acts, `worker` is the simulator's side of an episode and `queries` the
policy's. Workers do not import torch.
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
    from rdvla.rollout.jobs import Batching, EpisodeJob, Schedule, ServedQueries, Setting, starting_seed
    from rdvla.rollout.local import roll_out
    from rdvla.rollout.opening import Opened, OpeningJob, open_each
    from rdvla.rollout.queries import Answered, AnswersCalls, Call, Policy, Queries, Spectator
    from rdvla.rollout.remote import RemotePolicy, roll_out_remote
    from rdvla.rollout.replies import PolicyServerError
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
    "AnswersCalls",
    "Attendance",
    "Batching",
    "Call",
    "Decision",
    "Environment",
    "EpisodeEnd",
    "EpisodeJob",
    "EpisodeResult",
    "EpisodeRunner",
    "Frame",
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
    "Recorder",
    "Recording",
    "RemotePolicy",
    "Reply",
    "Schedule",
    "ServedQueries",
    "Setting",
    "Spectator",
    "TimeStep",
    "held",
    "open_each",
    "read_frames",
    "roll_out",
    "roll_out_remote",
    "run_episode",
    "run_episode_job",
    "starting_seed",
    "write_video",
]
