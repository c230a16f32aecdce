"""What `rdvla serve` serves, where, and how much it lets anybody ask of it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rdvla.config.help import MORE
from rdvla.control import execution_help, parse_execution, parse_stop, split_start, stop_help
from rdvla.control.stop import LARGEST_DEPTH
from rdvla.errors import ConfigError
from rdvla.live.rerun import check_target
from rdvla.policy.device import Device
from rdvla.policy.run_folder import policy_name

LayoutName = Literal["auto", "native", "libero", "droid", "aloha"]
LogFormat = Literal["text", "json"]
Drive = Literal["no", "motion", "position"]
KEY_VARIABLE = "RDVLA_API_KEY"  # environment variable that holds the key

_NOT_IN_NAMES = set("/?#%& \\\"'<>")  # a policy's name is a path of the address


@dataclass(frozen=True)
class LayoutMapping:
    """How a client's messages differ from the layout."""

    images: dict[str, str] = field(default_factory=dict)  # camera of the policy -> key of the message
    state: tuple[str, ...] = ()  # keys whose numbers, one after another, are the proprioception
    instruction: str = ""  # key of the instruction; empty: prompt
    default_instruction: str = ""  # for clients that send none; empty: they are refused
    rotate: tuple[str, ...] = ()  # cameras whose images arrive upside down, to be turned by 180 degrees
    resize: bool = False  # scale square images of another size, instead of refusing them


@dataclass(frozen=True)
class ServeConfig:
    """One port with policies for robots that speak openpi's protocol.

    The key that clients must send is read from the environment variable RDVLA_API_KEY or from a file: other
    users of a machine can see its command lines.
    """

    policy: str  # policy folder, run directory, export, or hub id; at the path / of the address
    policies: dict[str, str] = field(default_factory=dict)  # more of them: {NAME: POLICY}, at the path /NAME
    host: str = "127.0.0.1"  # this machine only; 0.0.0.0 lets other machines in, then set a key and TLS
    port: int = 8000  # 0: any that is free
    layout: LayoutName = "auto"  # names in messages: openpi's of a robot, or the policy's own (native)
    mapping: LayoutMapping = field(default_factory=LayoutMapping)
    stop: str = field(  # if a client names none; empty: as the policy says. Stop rules:
        default="", metadata={MORE: stop_help()}
    )
    execution: str = field(  # if a client names none; empty: as the policy says. Execution rules:
        default="", metadata={MORE: execution_help()}
    )
    depth_limit: int = 256  # iterations that a client may ask for; a request for more is refused
    compiled: bool = False  # compile the head for this processor before the port opens
    compiled_head: str = (
        ""  # folder of policy's head as native code, written by rdvla export; load only your own
    )
    device: Device = "auto"  # auto: an accelerator if there is one
    threads: int = 1  # torch threads of each replica
    replicas: int = 1  # copies of each policy that compute at the same time
    ray: str = ""  # replicas run on this Ray cluster: auto, HOST:PORT, or local; empty: on this machine alone
    ray_cpus: float = 1.0  # that each replica takes there
    ray_gpus: float = 0.0  # that each replica takes there; 0.5: two share one
    max_batch: int = 32  # queries that a replica computes together
    max_waiting: int = 64  # queries that may wait for a policy; more are told that it is busy
    seed: int | None = None  # makes the starting states of every connection repeatable
    connections: int = 64  # clients at the same time; more are refused
    idle_seconds: float = 3600.0  # a client that asks nothing for so long is disconnected
    message_mb: float = 0.0  # largest message; 0: images of twice the policy's height and width, in float32
    grace_seconds: float = 10.0  # how long running queries may take once the server is told to stop
    api_key_file: str = ""  # file with the key; empty: RDVLA_API_KEY, and if that is not set, no key
    tls_certificate: str = ""  # PEM file, with the chain; empty: no TLS
    tls_key: str = ""  # PEM file with the certificate's private key
    live: bool = False  # show what every robot sees and does at /live, where a person can pause it
    drive: Drive = (
        "no"  # whether people may drive there, and what actions are: motion (0 is rest) or position
    )
    rerun: str = ""  # log every query to Rerun: a file.rrd, spawn (starts its viewer), or a viewer's address
    log_format: LogFormat = "text"  # json: one object per line
    log_queries: bool = False  # also a line per query
    log_instructions: bool = False  # with the instruction, which may be private

    def __post_init__(self) -> None:
        self._check_numbers()
        if not self.policy:
            raise ConfigError("policy is empty: name a folder, a run, an export or a hub id")
        if self.compiled and self.compiled_head:
            raise ConfigError("compiled compiles the head now, compiled_head loads its code: set one of them")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError("TLS needs both tls_certificate and tls_key: one of them is missing")
        self._check_names()
        if self.rerun:
            check_target(self.rerun)
        if self.drive != "no" and not self.live:
            raise ConfigError("drive needs the live page, where people do it: add --live true")
        if self.stop:
            parse_stop(split_start(self.stop)[0])
        if self.execution:
            parse_execution(self.execution)

    def _check_numbers(self) -> None:
        for name in ("connections", "threads", "replicas", "max_batch", "max_waiting", "depth_limit"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("idle_seconds", "message_mb", "grace_seconds", "ray_cpus", "ray_gpus"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be a number from 0 on, got {getattr(self, name)}")
        if not self.ray and (self.ray_cpus, self.ray_gpus) != (1.0, 0.0):
            raise ConfigError("ray_cpus and ray_gpus are for replicas on a cluster: name it with --ray")
        if not self.idle_seconds:
            raise ConfigError("idle_seconds must be above 0, got 0.0")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535, got {self.port}")
        if self.depth_limit > LARGEST_DEPTH:
            raise ConfigError(f"depth_limit must be at most {LARGEST_DEPTH}, got {self.depth_limit}")

    def _check_names(self) -> None:
        for name, source in self.policies.items():
            if not isinstance(source, str) or not source.strip():
                raise ConfigError(
                    f"policies.{name} must be a folder, run, export or hub id, got {source!r}: write "
                    f"--policies '{{{name}: FOLDER}}'"
                )
            if not name.isprintable() or not name.isascii() or not name or set(name) & _NOT_IN_NAMES:
                raise ConfigError(
                    f"policies names one {name!r}, which becomes a path of the address: use letters, digits, "
                    "- and _"
                )
            if name in RESERVED_PATHS:
                raise ConfigError(f"policies names one {name!r}, which is another page of the server")
        if self.default_name in self.policies:
            raise ConfigError(f"two policies are called {self.default_name!r}: name the one in policies anew")

    @property
    def default_name(self) -> str:
        """The name of the policy at the path /."""
        return policy_name(self.policy)

    @property
    def sources(self) -> Mapping[str, str]:
        """Name -> folder, run, export or hub id, of every policy; the one at the path / comes first."""
        return {self.default_name: self.policy, **self.policies}

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the port."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def key_path(self) -> Path | None:
        """The file that holds the key."""
        return Path(self.api_key_file) if self.api_key_file else None


RESERVED_PATHS = ("healthz", "metrics", "live")
