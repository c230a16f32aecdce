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
from rdvla.evaluation.told import Told, plain
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
    metadata: Mapping[str, Any]  # all of it, in values that JSON holds
    told: Told  # what is believed of it
    cameras: tuple[str, ...]  # of the environment, that it takes
    image_size: int  # pixels, of square images

    @classmethod
    def reach(cls, config: EvaluationConfig, envs: Sequence[str]) -> ServerUnderTest:
        """Ask a server who it is; its key, if it wants one, is in the environment variable RDVLA_API_KEY.

        Args:
            config: of the evaluation.
            envs: environments that it is evaluated in.

        Raises:
            ConfigError: the server's names, settings or cameras do not go with the configuration, or an entry
                of its metadata is not what it has to be.
            PolicyServerError: nobody answers, or it refuses us.
        """
        key = os.environ.get(KEY_VARIABLE) or None
        metadata = _metadata(config.server, key)
        told = Told.read(metadata, config.server)
        cameras = _cameras(told, envs)
        if told.options and not config.layout:
            names = MessageNames.told(metadata)
        elif config.layout:
            names = MessageNames.of_layout(config.layout, cameras)
        else:
            raise ConfigError(
                f"{config.server} does not say how it names cameras and state: give --layout, such as libero"
            )
        return cls(
            server=RemotePolicy(config.server, names, told.options, key, told.fingerprint),
            config=_completed(config, told),
            metadata=metadata,
            told=told,
            cameras=tuple(names.images),
            image_size=_image_size(told, names),
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What is known of the policy, for the results."""
        return {"path": self.told.policy or self.config.server, "server": dict(self.metadata)}

    @property
    def fingerprint(self) -> str:
        """What tells the policy from others: of its weights, or of all that its server says."""
        return self.told.fingerprint or hash_tensors(
            [], start=json.dumps(self.metadata, sort_keys=True).encode()
        )

    @property
    def compared(self) -> dict[str, Any]:
        """What an evaluation that goes on has to find again: see `rdvla.evaluation.journal.same_run`.

        Without a fingerprint, the address is all that tells one policy from another. What the server does by
        itself matters if a setting leaves the stop rule to it.
        """
        same: dict[str, Any] = {} if self.told.fingerprint else {"server": self.config.server}
        if any(setting.rule == SERVERS_OWN for setting in self.config.settings):
            same["server_rules"] = dict(self.told.rules)
        return same

    def check(self, opened: dict[str, Opened], *, console: Console) -> None:
        """Check that the policy can act in environments that were opened, as far as its server says.

        Raises:
            ConfigError: a camera's or another size differs, or the robot does.
        """
        robot = RobotConfig(action_names=self.told.action_names)
        for env, shown in opened.items():
            for what, found, told in (
                ("state", shown.state_size, self.told.state_dim),
                ("action", shown.action_size, self.told.action_dim),
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
            return dict(plain(client.metadata))
    except ClientError as error:
        raise PolicyServerError(str(error)) from None


def _cameras(told: Told, envs: Sequence[str]) -> list[str]:
    """The cameras that every environment has; all that the server names are among them."""
    known = [task_suite(env).cameras for env in envs]
    shared = [camera for camera in known[0] if all(camera in others for others in known)]
    for camera in told.cameras:
        if camera not in shared:
            raise ConfigError(
                f"the server's policy needs camera '{camera}', which {', '.join(envs)} does not have; "
                f"cameras there: {', '.join(shared)}"
            )
    return shared


def _image_size(told: Told, names: MessageNames) -> int:
    known = {told.image_sizes[camera] for camera in names.images if camera in told.image_sizes}
    for height, width in known:
        if height != width:
            raise ConfigError(
                f"the server's policy was trained on images of {width}x{height} pixels, and simulators "
                "render square ones: evaluate it where its cameras are"
            )
    return max((height for height, _ in known), default=OTHERS_IMAGE_SIZE)


def _completed(config: EvaluationConfig, told: Told) -> EvaluationConfig:
    """The configuration with the server's name and execution rule, and its own stop rule if it takes none."""
    execution = config.execution or ((told.rules["execution"],) if "execution" in told.rules else ())
    if not execution:
        raise ConfigError(
            f"{config.server} does not say how many actions of a chunk to execute: give --execution '[5]'"
        )
    for rule in map(parse_execution, execution):
        if not told.options and rule.name != "fixed":
            raise ConfigError(
                f"execution {rule.describe()!r} needs the depth of every query, which this server does not "
                "say: give a number of actions"
            )
        if told.chunk_size and rule.longest > told.chunk_size:
            raise ConfigError(
                f"execution {rule.describe()!r} is longer than the server's chunks of {told.chunk_size}"
            )
    stops = config.stops
    if not told.options:
        default = EvaluationConfig.__dataclass_fields__["stops"].default
        stops = (SERVERS_OWN,) if stops == default else stops
        settings = [Setting.parse(stop, 1) for stop in stops]
        if any(setting.stop != SERVERS_OWN for setting in settings):
            raise ConfigError(
                f"{config.server} is no server of rdvla and takes no stop rule or deadline: leave out --stops"
            )
    return dataclasses.replace(config, execution=execution, stops=stops, label=config.label or told.policy)
