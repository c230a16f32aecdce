"""What to evaluate, and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdvla.config.check import WAS
from rdvla.config.help import MORE
from rdvla.control import execution_help, execution_text, parse_execution, stop_help, stop_text
from rdvla.errors import ConfigError
from rdvla.live.rerun import check_target
from rdvla.policy.device import Device
from rdvla.policy.run_folder import policy_name
from rdvla.rollout.jobs import SERVERS_OWN, Batching, Setting
from rdvla.simulation.registry import FIRST_EVALUATION_SEED
from rdvla.simulation.rendering import Rendering
from rdvla.workers import WorkerChoice, parse_workers

RECORDED = "rollout_"  # that names of recorded datasets start with, in LeRobot
LARGEST_PORT = 65535
LARGEST_SEED = 2**32 - 1  # that numpy's legacy generators take, which some simulators use


def find_setting(text: str, known: Sequence[Setting]) -> Setting:
    """Return one of the `known` settings from `STOP` or `STOP/EXECUTION`, such as `8` or `8/fixed:4`.

    Raises:
        ConfigError: none of them, or several (with different execution rules), are meant.
    """
    stop, _, execution = text.partition("/")
    executions = [execution] if execution else list(dict.fromkeys(setting.execution for setting in known))
    meant = [Setting.parse(stop, each) for each in executions]
    found = [setting for setting in dict.fromkeys(known) if setting in meant]
    if len(found) != 1:
        names = ", ".join(setting.name for setting in dict.fromkeys(known))
        raise ConfigError(f"{len(found)} settings are called {text!r}; name one of: {names or 'none'}")
    return found[0]


def check_port(option: str, port: int) -> None:
    """Check that an option is a port, or true or false for one that is chosen elsewhere.

    Raises:
        ConfigError: it is not.
    """
    if not 0 <= port <= LARGEST_PORT:
        raise ConfigError(f"{option} must be true, false or a port up to {LARGEST_PORT}, got {port}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Closed-loop evaluation of one policy: environments x tasks x stop rules x execution rules x seeds.

    The published LIBERO protocol: --env libero_spatial,libero_object,libero_goal,libero_10 --episodes 50
    """

    policy: str = ""  # policy folder, run directory of `rdvla train`, or hub id; none with --server
    output: str = ""  # run directory to write: config, episodes.jsonl, results.json, videos
    env: str = "metaworld"  # environment, or several: libero_spatial,libero_object
    tasks: tuple[str, ...] = ()  # tasks or sets of them; none: each environment's own choice (MT10, all)
    episodes: int = 25  # per task and setting; LIBERO has 50 official initial states per task
    seed: int = FIRST_EVALUATION_SEED  # episode i of every task and setting plays seed + i
    stops: tuple[str, ...] = field(
        default=("1", "2", "4", "8", "12", "action_change:1e-3"), metadata={WAS: "rules", MORE: stop_help()}
    )  # stop rules; behind one, @final, @midpoint or @shifted starts warm, and @20ms is a server's deadline:
    execution: tuple[str, ...] = field(  # actions of a chunk to run; none: as the policy says. Rules:
        default=(), metadata={MORE: execution_help()}
    )
    max_steps: int | None = None  # an episode without success ends here; null: as step_limits says
    step_limits: str | None = None  # limits by name: published, lerobot, short; null: the environment's own
    workers: int | str = 2  # environment processes; ray, or ray:16: on a Ray cluster, one for each processor
    ray: str = "auto"  # that cluster: auto, the one this machine belongs to; HOST:PORT; local: started here
    ray_gpus: float | None = None  # GPUs of that cluster for the policy; each copy; null: 1 if none is here
    ray_policies: int = 1  # copies of the policy on that cluster, which answer at the same time
    batching: Batching = "single"  # queries of several workers; together is faster and repeats less exactly
    device: Device = "auto"  # of the policy; auto: an accelerator if there is one
    threads: int = 1  # torch threads of the policy; the environments need the other cores
    videos: int = 1  # per task and setting, of its first episodes
    video_fps: int = 20  # frames per second of watching; each more costs a rendering
    timing_seconds: float = 20.0  # after the episodes, about how long to measure ms per query; 0: not at all
    rendering: Rendering = "fast"  # as in the training images; full: as the benchmark itself renders
    allow_other_robot: bool = False  # warn if the policy was trained on another robot, instead of refusing
    live: bool | int = False  # show the running episodes on a page: true, or the port; 0: a free one
    record: str = ""  # dataset of what a person does, new or to be added to; its name starts with rollout_
    record_autonomous: bool = False  # record whole episodes, instead of a person's corrections alone
    rerun: str = ""  # log every query to Rerun: a file.rrd, spawn (starts its viewer), or a viewer's address
    label: str = ""  # the policy's name in tables; if empty, its run's, its folder's or its id's
    server: str = ""  # instead of a policy: ws://HOST:PORT of a server that speaks openpi's protocol
    layout: str = ""  # names in a server's observations (libero, droid, aloha, ...); if empty, as it says

    def __post_init__(self) -> None:
        self._check_source()
        self._write_rules()
        self._check_workers()
        for name in ("episodes", "threads", "video_fps", "ray_policies"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.timing_seconds < math.inf:
            raise ConfigError(f"timing_seconds must be a number from 0 on, got {self.timing_seconds}")
        if self.videos < 0:
            raise ConfigError(f"videos must not be negative, got {self.videos}")
        self._check_watching()
        if self.seed < FIRST_EVALUATION_SEED:
            raise ConfigError(
                f"seed must be at least {FIRST_EVALUATION_SEED}, got {self.seed}: "
                "lower seeds belong to demonstrations, which a policy must not be tested on"
            )
        last = self.seed + self.episodes - 1
        if last > LARGEST_SEED:
            raise ConfigError(f"the last episode's seed must be at most {LARGEST_SEED}, got {last}")
        self._check_steps()
        self._check_record()
        if not self.stops:
            raise ConfigError("stops is empty; name at least one")
        self._check_settings()
        stops = {Setting.parse(stop, "1").stop for stop in self.stops}
        executions = {parse_execution(rule).describe() for rule in self.execution}
        if len(stops) < len(self.stops) or len(executions) < len(self.execution):
            raise ConfigError(f"a setting is named twice in stops {self.stops} x execution {self.execution}")
        if not all(self.envs) or len(set(self.envs)) < len(self.envs):
            raise ConfigError(f"env must name different environments, separated by commas, got {self.env!r}")

    def _check_source(self) -> None:
        if bool(self.policy) == bool(self.server):
            both = "both" if self.policy else "neither"
            raise ConfigError(f"name a policy or the server of one (--policy, --server), not {both}")
        if self.server and (self.live is not False or self.rerun):
            raise ConfigError(
                "live and rerun show a policy in this process; servers have both: rdvla serve --live"
            )
        if self.layout and not self.server:
            raise ConfigError("layout says how a server names things: give --server too, or leave it out")
        if not self.output:
            raise ConfigError("output is missing: name a folder for the results, such as runs/evaluation")

    def _check_workers(self) -> None:
        on_cluster = self.worker_choice.ray is not None
        if self.ray_gpus is not None and not 0 <= self.ray_gpus < math.inf:
            raise ConfigError(f"ray_gpus must be a number from 0 on, got {self.ray_gpus}")
        if (self.ray_gpus or self.ray_policies > 1) and (not on_cluster or self.server):
            raise ConfigError(
                "ray_gpus and ray_policies are for a policy on a cluster: give --workers ray and --policy"
            )
        if self.server and self.batching != "single":
            raise ConfigError("batching is for a policy: a server has batches of its own, so leave it out")
        if self.record and on_cluster:
            raise ConfigError("record writes on this machine: give a number of --workers instead of ray")

    def _check_record(self) -> None:
        name = Path(self.record).name
        if self.record and not name.startswith(RECORDED):
            better = Path(self.record).with_name(f"{RECORDED}{name}")
            raise ConfigError(
                f"record: in LeRobot, names of such datasets start with {RECORDED}: give --record {better}"
            )
        if self.record and self.server:
            raise ConfigError("record takes a policy in this process: give --policy instead of --server")
        if self.record_autonomous and not self.record:
            raise ConfigError("record_autonomous says how to record: give --record too, or leave it out")

    def _check_watching(self) -> None:
        check_port("live", self.live)
        if self.rerun:
            check_target(self.rerun)

    def _check_settings(self) -> None:
        for setting in (Setting.parse(stop, "1") for stop in self.stops):
            if not self.server and (setting.deadline_ms is not None or setting.rule == SERVERS_OWN):
                raise ConfigError(f"{setting.stop!r} in stops needs a policy server: give --server")

    def _write_rules(self) -> None:
        """Bring rules that a program gave as numbers, objects or a single one into a tuple of texts."""
        for name, written in (("stops", stop_text), ("execution", execution_text)):
            given = getattr(self, name)
            rules = given if isinstance(given, list | tuple) else (given,)
            object.__setattr__(self, name, tuple(written(rule) for rule in rules))

    def _check_steps(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1, got {self.max_steps}")
        if self.max_steps is not None and self.step_limits is not None:
            raise ConfigError("max_steps and step_limits both say how long an episode may take: give one")

    @property
    def envs(self) -> tuple[str, ...]:
        """The environments."""
        return tuple(name.strip() for name in self.env.split(","))

    @property
    def worker_choice(self) -> WorkerChoice:
        """Where the environments run."""
        return parse_workers(self.workers, ray=self.ray)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every stop rule with every execution rule; none if the execution is left to the policy."""
        return tuple(Setting.parse(stop, execution) for execution in self.execution for stop in self.stops)

    @property
    def policy_label(self) -> str:
        """The policy's name in tables."""
        return self.label or policy_name(self.policy or self.server)
