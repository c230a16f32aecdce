"""A model server for vla-eval: its benchmarks reach a policy that `rdvla serve` serves."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from vla_eval.model_servers.base import ModelServer, SessionContext
from vla_eval.specs import IMAGE_RGB, LANGUAGE, RAW, DimSpec

from rdvla_client import PolicyClient
from rdvla_peers.messages import Inputs, Robot

STATES = ("states", "state")  # where vla-eval's benchmarks put the proprioception
LONGEST_QUEUE = 64  # episodes that may ask at the same time; `rdvla serve` batches them


class RDVLAModelServer(ModelServer):  # type: ignore[misc]  # vla-eval lives in an environment of its own
    """Passes observations to `rdvla serve`, one connection per episode, and plays its chunks.

    The server's execution rule says how many actions of a chunk are executed, so vla-eval's own chunking is
    not used. An API key is read from the environment variable RDVLA_API_KEY.
    """

    def __init__(
        self,
        server: str = "ws://127.0.0.1:8000",
        cameras: dict[str, str] | None = None,
        state: str | None = None,
        stop: str | None = None,
        execution: str | None = None,
        observation_params: dict[str, Any] | None = None,
    ) -> None:
        """Connect to a server of rdvla.

        Args:
            server: its address; a path chooses one of several policies.
            cameras: policy's camera -> the benchmark's; those of the same name need no entry.
            state: the observation's key with the proprioception; by default `states` or `state`.
            stop: a stop rule; by default the policy's.
            execution: an execution rule; by default the policy's.
            observation_params: what to ask the benchmark for; by default its wrist camera and its state, if
                the policy takes more than one camera, and a state.
        """
        self._server = server
        self._state = state
        self._rules = {"stop": stop, "execution": execution}
        first = self._connect()
        self._inputs = Inputs.of(first.client.metadata)
        self._sources = self._inputs.sources(cameras or {})
        self._observation_params = observation_params
        self._idle = [first]
        self._robots: dict[tuple[str, str], Robot] = {}
        self._limiter: anyio.CapacityLimiter | None = None

    def _connect(self) -> Robot:
        client = PolicyClient(self._server, api_key=os.environ.get("RDVLA_API_KEY") or None)
        return Robot(client, **self._rules)

    async def on_serve_start(self, tg: Any) -> None:  # noqa: ARG002  # vla-eval's signature
        """Make what belongs to the event loop."""
        self._limiter = anyio.CapacityLimiter(LONGEST_QUEUE)

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:  # noqa: ARG002
        """Take a connection that no other episode uses."""
        robot = self._idle.pop() if self._idle else self._connect()
        robot.reset()
        self._robots[_episode(ctx)] = robot

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:  # noqa: ARG002
        """Leave the connection to the next episode; also called if the benchmark vanishes."""
        robot = self._robots.pop(_episode(ctx), None)
        if robot is not None:
            self._idle.append(robot)

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Send the next action of the chunk, or ask for a new chunk."""
        robot = self._robots[_episode(ctx)]
        action = robot.buffered()
        if action is None:
            message = self._message(obs)
            action = await anyio.to_thread.run_sync(
                partial(robot.next_action, message), limiter=self._limiter
            )
        await ctx.send_action({"actions": action})

    def _message(self, obs: dict[str, Any]) -> dict[str, Any]:
        names = STATES if self._state is None else (self._state,)
        return self._inputs.message(
            images=obs.get("images", {}),
            sources=self._sources,
            state=[obs[name] for name in names if name in obs][:1],
            instruction=str(obs.get("task_description", "")),
        )

    def get_action_spec(self) -> dict[str, DimSpec]:
        """Say that actions come as the policy was trained on them."""
        return {"actions": RAW}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """Say which cameras the policy needs, by the benchmark's names."""
        return {**dict.fromkeys(self._sources.values(), IMAGE_RGB), "language": LANGUAGE}

    def get_observation_params(self) -> dict[str, Any]:
        """Ask benchmarks that send a wrist camera or a state only on request for both."""
        if self._observation_params is not None:
            return self._observation_params
        wanted = {
            "send_wrist_image": len(self._sources) > 1,
            "send_state": self._inputs.state is not None,
        }
        return {name: True for name, needed in wanted.items() if needed}


def _episode(ctx: SessionContext) -> tuple[str, str]:
    return ctx.session_id, ctx.episode_id
