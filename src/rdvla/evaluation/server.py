"""A policy server under evaluation: what it says of itself, and whether it fits the environments."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from rdvla.control import parse_execution
from rdvla.errors import ConfigError, optional
from rdvla.evaluation.config import EvaluationConfig
from rdvla.evaluation.fitness import robot_differences
from rdvla.hashing import hash_tensors
from rdvla.policy.config import RobotConfig
from rdvla.rollout import Opened, PolicyServerError, RemotePolicy
from rdvla.rollout.jobs import SERVERS_OWN, Setting
from rdvla.serving.config import KEY_VARIABLE
from rdvla.serving.sending import MessageNames
from rdvla.simulation.registry import task_suite

OTHERS_IMAGE_SIZE = 224  # pixels; what openpi's clients send, whose servers do not say


@dataclass(frozen=True)
class ServerUnderTest:
    """A server that answered, with the evaluation's configuration completed by what it said."""

    server: RemotePolicy
    config: EvaluationConfig
    metadata: Mapping[str, Any]
    cameras: tuple[str, ...]  # of the environment, that it takes
    image_size: int  # pixels, of square images

    @classmethod
    def reach(cls, config: EvaluationConfig, envs: Sequence[str]) -> ServerUnderTest:
        """Ask a server who it is; its key, if it wants one, is in the environment variable RDVLA_API_KEY.

        Args:
            config: of the evaluation.
            envs: environments that it is evaluated in.

        Raises:
            ConfigError: the server's names, settings or cameras do not go with the configuration.
            PolicyServerError: nobody answers, or it refuses us.
        """
        key = os.environ.get(KEY_VARIABLE) or None
        metadata = _metadata(config.server, key)
        understands = frozenset(map(str, metadata.get("options", ())))
        cameras = _cameras(metadata, envs)
        if understands and not config.layout:
            names = MessageNames.told(metadata)
        elif config.layout:
            names = MessageNames.of_layout(config.layout, cameras)
        else:
            raise ConfigError(
                f"{config.server} does not say how it names cameras and state: give --layout, such as libero"
            )
        return cls(
            server=RemotePolicy(config.server, names, understands, key),
            config=_completed(config, metadata, understands=understands),
            metadata=metadata,
            cameras=tuple(names.images),
            image_size=_image_size(metadata, names),
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What is known of the policy, for the results."""
        return {"path": str(self.metadata.get("policy", self.config.server)), "server": dict(self.metadata)}

    @property
    def fingerprint(self) -> str:
        """What tells the policy from others: of its weights, or of all that its server says."""
        told = self.metadata.get("fingerprint")
        if told:
            return str(told)
        return hash_tensors([], start=json.dumps(self.metadata, sort_keys=True, default=repr).encode())

    def check(self, opened: dict[str, Opened], *, console: Console) -> None:
        """Check that the policy can act in environments that were opened, as far as its server says.

        Raises:
            ConfigError: a camera's or another size differs, or the robot does.
        """
        robot = RobotConfig(action_names=tuple(map(str, self.metadata.get("action_names", ()))))
        for env, shown in opened.items():
            for what, found, told in (
                ("state", shown.state_size, self.metadata.get("state_dim")),
                ("action", shown.action_size, self.metadata.get("action_dim")),
            ):
                if found is not None and told and found != told:
                    raise ConfigError(
                        f"the server's policy does not fit {env}: its {what} has {told} numbers, not {found}"
                    )
            for problem in robot_differences(robot, shown):
                if not self.config.allow_other_robot:
                    raise ConfigError(
                        f"the server's policy was trained on another robot than {env} has: {problem}. "
                        "Give --allow_other_robot true if they are meant to be the same"
                    )
                console.print(f"warning: {env}: {problem}", style="yellow", markup=False, highlight=False)


def _metadata(address: str, key: str | None) -> dict[str, Any]:
    with optional("serve"):
        from rdvla_client.errors import ClientError
    try:
        with RemotePolicy(address, MessageNames({}, {}), api_key=key).connect() as client:
            return dict(client.metadata)
    except ClientError as error:
        raise PolicyServerError(str(error)) from None


def _cameras(metadata: Mapping[str, Any], envs: Sequence[str]) -> list[str]:
    """The cameras that every environment has; all that the server names are among them."""
    known = [task_suite(env).cameras for env in envs]
    shared = [camera for camera in known[0] if all(camera in others for others in known)]
    for camera in metadata.get("cameras", ()):
        if camera not in shared:
            raise ConfigError(
                f"the server's policy needs camera '{camera}', which {', '.join(envs)} does not have; "
                f"cameras there: {', '.join(shared)}"
            )
    return shared


def _image_size(metadata: Mapping[str, Any], names: MessageNames) -> int:
    sizes = metadata.get("image_sizes", {})
    known = {tuple(sizes[camera]) for camera in names.images if camera in sizes}
    for height, width in known:
        if height != width:
            raise ConfigError(
                f"the server's policy was trained on images of {width}x{height} pixels, and simulators "
                "render square ones: evaluate it where its cameras are"
            )
    return max((height for height, _ in known), default=OTHERS_IMAGE_SIZE)


def _completed(
    config: EvaluationConfig, metadata: Mapping[str, Any], *, understands: frozenset[str]
) -> EvaluationConfig:
    """The configuration with the server's name and execution rule, and its own stop rule if it takes none."""
    execution = config.execution or ((str(metadata["execution"]),) if "execution" in metadata else ())
    if not execution:
        raise ConfigError(
            f"{config.server} does not say how many actions of a chunk to execute: give --execution '[5]'"
        )
    chunk = metadata.get("chunk_size")
    for rule in map(parse_execution, execution):
        if not understands and rule.name != "fixed":
            raise ConfigError(
                f"execution {rule.describe()!r} needs the depth of every query, which this server does not "
                "say: give a number of actions"
            )
        if isinstance(chunk, int) and rule.longest > chunk:
            raise ConfigError(f"execution {rule.describe()!r} is longer than the server's chunks of {chunk}")
    stops = config.stops
    if not understands:
        default = EvaluationConfig.__dataclass_fields__["stops"].default
        stops = (SERVERS_OWN,) if stops == default else stops
        settings = [Setting.parse(stop, 1) for stop in stops]
        if any(setting.stop != SERVERS_OWN for setting in settings):
            raise ConfigError(
                f"{config.server} is no server of rdvla and takes no stop rule or deadline: leave out --stops"
            )
    label = config.label or str(metadata.get("policy", ""))
    return dataclasses.replace(config, execution=execution, stops=stops, label=label)
