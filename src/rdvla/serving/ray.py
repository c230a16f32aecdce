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
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from rdvla.errors import ConfigError, RDVLAError, optional
from rdvla.serving.queries import Answer, PolicyFront, Query, ReplicaDiedError
from rdvla.serving.replicas import LoadPolicy

REACH = 10.0  # seconds to find out whether anybody is at an address
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
            _delete(self._application)
            _CLUSTER.leave()


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

    _quieten()
    _CLUSTER.enter(options.address)
    application = f"rdvla_{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    try:
        serve.start(proxy_location="Disabled")  # robots reach the server, never Ray
        _remove_orphans()
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
        _delete(application)
        _CLUSTER.leave()
        raise
    atexit.register(started.close)
    return started


class _Cluster:
    """This process's connection to Ray, which the replicas of several policies share."""

    def __init__(self) -> None:
        self._users = 0
        self._ours = False  # connected here, not by whoever calls us

    def enter(self, address: str) -> None:
        import ray

        if not ray.is_initialized():
            _connect(address)
            self._ours = True
        self._users += 1

    def leave(self) -> None:
        import ray

        self._users -= 1
        if self._users == 0 and self._ours:
            self._ours = False
            ray.shutdown()


_CLUSTER = _Cluster()


def _connect(address: str) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about users' machines leaves them
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    if address == "local":
        ray.init(address="local", include_dashboard=False, **common)
        return
    try:
        if address != "auto":
            _check_reachable(address)  # Ray itself would try for minutes
        ray.init(address=address, **common)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"ray: no Ray cluster at {address!r} that this machine belongs to ({error}). Start one "
            "here with `ray start --head`, join one with `ray start --address=HOST:PORT`, or use `local`"
        ) from error


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is auto, local or HOST:PORT")
    socket.create_connection((host, int(port)), timeout=REACH).close()


def _delete(application: str) -> None:
    """Delete an application, and wait until it is gone: what is only asked for may be lost at a shutdown."""
    import ray
    from ray import serve

    if ray.is_initialized():
        with suppress(ray.exceptions.RayError, TimeoutError):  # the cluster is gone, and the replicas with it
            serve.delete(application)


def _remove_orphans() -> None:
    """Remove the replicas of servers that were killed on this machine; others remove theirs."""
    from ray import serve

    for application in serve.status().applications:
        match application.split("_"):
            case ["rdvla", host, process, _] if host == socket.gethostname() and process.isdigit():
                if not _runs(int(process)):
                    serve.delete(application, _blocking=False)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


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
                f"Each takes {each}; {_resources()}. {message}"
            )
        time.sleep(POLL)


def _resources() -> str:
    import ray

    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return f"the cluster has {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"


def _portable(queries: Sequence[Query]) -> tuple[list[Query], list[float | None]]:
    """Return queries without deadlines, and the seconds that their replica may take."""
    now = time.monotonic()
    left = [None if query.deadline is None else query.deadline - now for query in queries]
    return [replace(query, deadline=None) for query in queries], left


class _DropRayErrors(logging.Filter):
    """Drops what Ray's router leaves unhandled while a node dies: hundreds of tracebacks for one event."""

    def filter(self, record: logging.LogRecord) -> bool:
        from ray.exceptions import RayError

        return not (record.exc_info and isinstance(record.exc_info[1], RayError))


def _quieten() -> None:
    asyncio_log = logging.getLogger("asyncio")
    if not any(isinstance(each, _DropRayErrors) for each in asyncio_log.filters):
        asyncio_log.addFilter(_DropRayErrors())
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
