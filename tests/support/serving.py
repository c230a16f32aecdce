"""Policy servers on free ports of this machine, and a policy whose answers a test can compute itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.policy.config import RobotConfig
from rdvla.processing.fit import CameraFits, ImageFit
from rdvla.serving import Answer, Endpoint, PolicyFacts, PolicyServer, Query, ServeConfig
from rdvla.types import Prediction

CHUNK, ACTIONS, WIDTH = 4, 3, 2  # K, A, D


def make_facts(name: str = "double", **changes: Any) -> PolicyFacts:
    """Facts of a policy with the cameras front and wrist of 8 pixels, and two numbers of proprioception."""
    size = changes.pop("size", 8)
    cameras = changes.pop("cameras", ("front", "wrist"))
    sizes = changes.pop("sizes", {})
    values: dict[str, Any] = {
        "form": "torch",
        "fingerprint": "0123456789abcdef",
        "fits": CameraFits({camera: ImageFit(size, "pad") for camera in cameras}, sizes),
        "state_dim": 2,
        "action_dim": ACTIONS,
        "chunk_size": CHUNK,
        "stop": "fixed:4",
        "execution": "fixed:2",
        "robot": RobotConfig(fps=10.0),
        "instructions": ("push the puck",),
    }
    return PolicyFacts(name=name, **values | changes)


@dataclass
class DoublePolicy:
    """A policy without weights.

    Every number of action k is the sum of the state, plus k. The final state S_k* is S_0 plus 1. The depth is
    what the stop rule or the request allows.
    """

    facts: PolicyFacts = field(default_factory=make_facts)
    seconds: float = 0.0  # that a query takes
    failure: BaseException | None = None  # raised instead of an answer
    asked: list[Query] = field(default_factory=list)
    closed: bool = False
    is_alive: bool = True

    def initial_state(self, seed: int | None = None) -> NDArray[np.float32]:
        """(K, D), the seed everywhere; 0 without one."""
        return np.full((CHUNK, WIDTH), seed or 0, dtype=np.float32)

    def replied(self, seconds: float) -> None:
        """Nothing is learnt."""

    async def ask(self, query: Query) -> Answer:
        if self.failure is not None and self.asked:  # the first query warms it up
            raise self.failure
        self.asked.append(query)
        await asyncio.sleep(self.seconds)
        allowed = int(query.stop.split(":")[1]) if query.stop and query.stop.startswith("fixed") else 32
        depth = min(allowed, query.max_depth or allowed)
        total = float(np.sum(query.observation.state))
        actions = np.full((CHUNK, ACTIONS), total, dtype=np.float32) + np.arange(CHUNK)[:, None]
        return Answer(
            prediction=Prediction(
                actions=actions.astype(np.float32),
                depth=np.int64(depth),
                converged=np.bool_(depth == allowed),
                state=query.initial_state + 1,
            ),
            ended_by="converged" if depth == allowed else "max_depth",
            max_depth=depth,
            waiting_ms=0.0,
            inference_ms=1.5,
            batch_size=1,
        )

    async def warm_up(self, query: Query) -> None:
        await self.ask(query)

    async def close(self) -> None:
        self.closed = True


@contextmanager
def running_server(policy: Any = None, **options: Any) -> Iterator[str]:
    """Serve a policy on a free port of this machine, and yield the address, such as ws://127.0.0.1:41207.

    Args:
        policy: what `rdvla serve` takes, a double, or a list of doubles; a double of its own if not given.
        options: of `ServeConfig`, and `hub` and `desk` of `PolicyServer`.
    """
    with open_server(policy, **options) as server:
        yield server.address


@contextmanager
def open_server(policy: Any = None, **options: Any) -> Iterator[PolicyServer]:
    """As `running_server`, but yield the server."""
    watching = {name: options.pop(name) for name in ("hub", "desk") if name in options}
    options = {"port": 0, "grace_seconds": 5.0} | options
    if isinstance(policy, str | Path):
        server = PolicyServer(ServeConfig(policy=str(policy), **options), **watching)
    else:
        doubles: Sequence[DoublePolicy] = policy if isinstance(policy, list) else [policy or DoublePolicy()]
        config = ServeConfig(policy="double", **options)
        endpoints = [Endpoint.of(double, double, config) for double in doubles]
        server = PolicyServer(config, endpoints=endpoints, **watching)
    with server:
        yield server


def make_message(*, state: Sequence[float] = (1.0, 2.0), **changes: Any) -> dict[str, Any]:
    """An observation of the double in the native layout, as a client sends it."""
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    return {
        "images/front": image,
        "images/wrist": image[::-1].copy(),
        "state": np.asarray(state, dtype=np.float32),
        "prompt": "push the puck",
        **changes,
    }


def wait_until(condition: Any, *, seconds: float = 60.0) -> bool:
    """Wait until a condition holds; return whether it does."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())
