"""A policy for inspect-robots, under the name `rdvla`: it asks `rdvla serve`."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from inspect_robots.errors import PolicyError
from inspect_robots.policy import PolicyBase, PolicyConfig, PolicyInfo
from inspect_robots.scene import Scene
from inspect_robots.spaces import ActionSemantics, Box, CameraSpec, ObservationSpace
from inspect_robots.types import Action, ActionChunk, Observation

from rdvla_client import ClientError, PolicyClient
from rdvla_peers.messages import Inputs, Robot, parse_pairs

TOLD = ("depth", "max_depth", "converged", "ended_by", "execute_steps", "uncertainty", "help_requested")


class RemotePolicy(PolicyBase):  # type: ignore[misc]  # inspect-robots lives in an environment of its own
    """Asks a server of rdvla; each query's depth and uncertainty go to the log.

    An API key is read from the environment variable RDVLA_API_KEY.

    Args:
        server: its address; a path chooses one of several policies.
        cameras: ``policy's=robot's,...``; cameras of the same name need no entry.
        state: keys of the robot's state whose numbers, one after another, are the policy's proprioception.
        control_mode: what an action means, such as ``joint_pos``; inspect-robots then compares it with the
            robot's. Not given: it warns that it cannot.
        rotation_repr: how actions write rotations.
        gripper: none, continuous or binary.
        frame: that actions are in.
        stop: a stop rule; by default the policy's.
        execution: an execution rule; by default the policy's.

    Raises:
        ClientError: the server cannot be reached, or the options do not fit its policy.
    """

    def __init__(
        self,
        *,
        server: str = "ws://127.0.0.1:8000",
        cameras: str | Mapping[str, str] | None = None,
        state: str = "",
        control_mode: Any = None,
        rotation_repr: Any = "none",
        gripper: Any = "none",
        frame: Any = "base",
        stop: str | None = None,
        execution: str | None = None,
    ) -> None:
        # Rules such as 4 arrive as numbers from the command line.
        self._robot = Robot(
            PolicyClient(server, api_key=os.environ.get("RDVLA_API_KEY") or None),
            stop=None if stop is None else str(stop),
            execution=None if execution is None else str(execution),
        )
        told = self._robot.client.metadata
        self._inputs = Inputs.of(told)
        self._sources = self._inputs.sources(parse_pairs(cameras))
        self._state = tuple(key.strip() for key in state.split(",") if key.strip())
        self._control_hz: float | None = told.get("control_hz")
        self._instruction = ""
        self._queries: list[dict[str, Any]] = []
        semantics = None
        if control_mode is not None:
            names = told.get("action_names") or None
            semantics = ActionSemantics(
                control_mode, rotation_repr, gripper, frame, dim_labels=tuple(names) if names else None
            )
        self.info = PolicyInfo(
            name=f"rdvla:{told['policy']}",
            action_space=Box(shape=(int(told["action_dim"]),), semantics=semantics),
            observation_space=ObservationSpace(
                cameras=tuple(
                    CameraSpec(self._sources[camera], *size) for camera, size in self._inputs.sizes.items()
                ),
                state_keys=frozenset(self._state),
            ),
            control_hz=self._control_hz,
            checkpoint=told.get("fingerprint"),
        )
        self.config = PolicyConfig(action_horizon=int(told["chunk_size"]))

    def reset(self, scene: Scene) -> None:
        """Begin an episode; the server forgets the last one."""
        self._instruction = scene.instruction
        self._queries = []
        self._robot.reset()

    def act(self, observation: Observation) -> ActionChunk:
        """Return the actions to execute before the next query."""
        self._instruction = observation.instruction or self._instruction
        began = time.monotonic()
        try:
            message = self._inputs.message(
                images=observation.images,
                sources=self._sources,
                state=[observation.state[key] for key in self._state if key in observation.state],
                instruction=self._instruction,
            )
            reply = self._robot.ask(message)
        except ClientError as error:
            raise PolicyError(f"rdvla's server: {error}") from error
        spent = time.monotonic() - began
        told = {name: reply[name] for name in TOLD if name in reply}
        self._queries.append({**told, "milliseconds": round(1000 * spent, 3)})
        return ActionChunk(
            [Action(data=np.asarray(action, dtype=np.float64)) for action in reply["actions"]],
            control_hz=self._control_hz,
            inference_latency_s=spent,
            meta=told,
        )

    def transcript(self) -> dict[str, Any]:
        """Return what the server said of every query of the trial."""
        return {"server": self._robot.client.address, "queries": copy.deepcopy(self._queries)}
