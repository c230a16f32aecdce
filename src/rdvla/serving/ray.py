"""Replicas of a policy on a Ray cluster.

The server keeps every robot's connection and state. Only batches of queries travel: through a Ray Serve
handle to a replica, on whatever machine it runs. A query depends on nothing but its own content, so a batch
whose replica died is asked again on another.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdvla.errors import ConfigError, RDVLAError, optional
from rdvla.serving.cluster import delete, quieten, remove_orphans
from rdvla.serving.queries import Answer, PolicyFront, Query, ReplicaDiedError
from rdvla.serving.replicas import LoadPolicy
from rdvla.workers.cluster import CLUSTER, resources

POLL = 0.2  # seconds between looks at the state of starting replicas
RETRY = 0.1  # seconds before a batch whose replica died is asked again


@dataclass(frozen=True)
class RayOptions:
    """Where replicas run, and what each of them takes."""

    replicas: int
    address: str = "auto"  # of the cluster, HOST:PORT; auto: found by Ray; local: started here, for trying
    cpus: float = 1.0  # of each replica; torch computes with as many threads, at least one
    gpus: float = 0.0  # of each replica; 0.5: two replicas share one
    start_seconds: float = 600.0  # within which all replicas must have loaded the policy
    patience_seconds: float = 60.0  # for which a batch is asked again before it counts as lost


class RayReplicas:
    """Replicas that run: what a server needs of them. `close` stops them."""

    def __init__(self, handle: Any, *, application: str, options: RayOptions) -> None:
        self._handle = handle
        self._application = application
        self._options = options
        self._open = options.replicas
        self._closed = False
        self.front: PolicyFront = handle.front.remote().result(timeout_s=options.start_seconds)

    def replicas(self) -> list[RayReplica]:
        """Return as many replicas as run, each for one batch at a time; Ray chooses which one computes it."""
        patience = self._options.patience_seconds
        return [
            RayReplica(self._handle, self.front.facts.fingerprint, patience=patience, release=self._release)
            for _ in range(self._options.replicas)
        ]

    async def _release(self) -> None:
        self._open -= 1
        if self._open == 0:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Stop all replicas; the cluster goes on, unless it was started here."""
        if not self._closed:
            self._closed = True
            delete(self._application)
            CLUSTER.leave()


class RayReplica:
    """One replica as the server sees it; a `Replica`.

    Args:
        handle: of the deployment.
        fingerprint: of the weights that answer; another machine may hold others in the same folder.
        patience: seconds for which a batch is asked again.
        release: is called once nobody uses the replica any more.
    """

    def __init__(self, handle: Any, fingerprint: str, *, patience: float, release: Callable[[], Any]) -> None:
        self._handle = handle
        self._fingerprint = fingerprint
        self._patience = patience
        self._release = release

    async def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer a batch, on another replica if its own dies.

        Raises:
            ReplicaDiedError: no replica could be reached.
            RDVLAError: what the policy itself raised.
        """
        try:
            async with asyncio.timeout(self._patience):
                return await self._ask_until_answered(queries)
        except TimeoutError as error:
            raise ReplicaDiedError(
                f"no replica on Ray could be reached for {self._patience:g} s; `ray status` and "
                "`serve status` say what is left of the cluster"
            ) from error

    async def _ask_until_answered(self, queries: Sequence[Query]) -> list[Answer]:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        while True:
            try:
                answers: list[Answer] = await self._handle.predict.remote(
                    *_portable(queries), self._fingerprint
                )
            except RayTaskError as error:
                if isinstance(error.cause, RDVLAError):
                    raise error.cause from None
                raise
            except (RayError, RayServeException):
                logging.getLogger(__name__).warning("a replica on Ray died; its batch is asked again")
                await asyncio.sleep(RETRY)
            else:
                return answers

    async def restart(self) -> None:
        """See `Replica.restart`; Ray Serve starts new replicas by itself, on machines that live."""

    async def close(self) -> None:
        """Say that this replica is not needed any more; the last one stops them all."""
        await self._release()


class PolicyHolder:
    """Runs on a machine of the cluster and holds the policy: the body of the deployment.

    Args:
        load: loads the policy.
    """

    def __init__(self, load: LoadPolicy) -> None:
        self._policy = load()
        self._free = asyncio.Lock()  # Ray may send a batch while another is computed

    def front(self) -> PolicyFront:
        """Return what the server needs of the policy."""
        return self._policy.front()

    async def predict(self, queries: list[Query], left: list[float | None], fingerprint: str) -> list[Answer]:
        """Answer a batch; `left` are the seconds to each query's deadline, since clocks differ by machine.

        Raises:
            ConfigError: this machine holds other weights than the server was told of.
        """
        if fingerprint != self._policy.facts.fingerprint:
            raise ConfigError(
                f"the policy on {socket.gethostname()} has other weights than that on the other machines: "
                "copy the same files to all of them"
            )
        now = time.monotonic()
        queries = [
            query if seconds is None else replace(query, deadline=now + seconds)
            for query, seconds in zip(queries, left, strict=True)
        ]
        async with self._free:
            return list(
                await asyncio.to_thread(self._policy.predict, queries)
            )  # Ray's checks of health go on


def start_replicas(load: LoadPolicy, options: RayOptions) -> RayReplicas:
    """Start replicas on a Ray cluster, and wait until they have loaded the policy.

    Args:
        load: loads it, on every machine that holds a replica; has to pickle.
        options: where, and how many.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: there is no cluster, it is too small, or the policy cannot be loaded there.
    """
    with optional("ray"):
        from ray import serve

    quieten()
    CLUSTER.enter(options.address)
    application = f"rdvla_{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    try:
        serve.start(proxy_location="Disabled")  # robots reach the server, never Ray
        remove_orphans()
        deployment: Any = serve.deployment(
            PolicyHolder,
            name="policy",
            num_replicas=options.replicas,
            max_ongoing_requests=2,  # a batch arrives while the last answers leave
            ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
            graceful_shutdown_timeout_s=5.0,
        )
        target = serve.RunTarget(deployment.bind(load), name=application, route_prefix=None)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        _wait(application, options)
        started = RayReplicas(handle, application=application, options=options)
    except BaseException:
        delete(application)
        CLUSTER.leave()
        raise
    atexit.register(started.close)
    return started


def _wait(application: str, options: RayOptions) -> None:
    """Wait until an application runs.

    Raises:
        ConfigError: it does not, or not in time.
    """
    from ray import serve

    deadline = time.monotonic() + options.start_seconds
    while True:
        state = serve.status().applications.get(application)
        if state is None:
            raise ConfigError(f"{application} was removed from the Ray cluster while it started")
        if state.status == "RUNNING":
            return
        message = " ".join([state.message, *(each.message for each in state.deployments.values())]).strip()
        if state.status == "DEPLOY_FAILED":
            raise ConfigError(f"the policy cannot be loaded on the Ray cluster: {_last_line(message)}")
        if time.monotonic() > deadline:
            each = f"{options.cpus:g} CPUs and {options.gpus:g} GPUs of one machine"
            raise ConfigError(
                f"not all of {options.replicas} replicas started within {options.start_seconds:.0f} s. "
                f"Each takes {each}; {resources()}. {message}"
            )
        time.sleep(POLL)


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"


def _portable(queries: Sequence[Query]) -> tuple[list[Query], list[float | None]]:
    """Return queries without deadlines, and the seconds that their replica may take."""
    now = time.monotonic()
    left = [None if query.deadline is None else query.deadline - now for query in queries]
    return [replace(query, deadline=None) for query in queries], left
