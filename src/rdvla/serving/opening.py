"""Loads the policies that a configuration names, for the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rdvla.assets import find_policy
from rdvla.serving.config import ServeConfig
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.inference import Inference, Replica
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import PolicyFront
from rdvla.serving.replicas import ThreadReplica

if TYPE_CHECKING:
    from rdvla.serving.ray import LoadPolicy


def open_endpoints(config: ServeConfig) -> list[Endpoint]:
    """Load every policy, the one at the path / first.

    Raises:
        RDVLAError: a policy cannot be loaded, or does not fit the layout.
    """
    opened: list[Endpoint] = []
    undo: list[Callable[[], None]] = []
    try:
        for name, source in config.sources.items():
            load = partial(
                load_policy,
                _anywhere(source),
                name=name,
                compiled=config.compiled,
                threads=config.threads,
                device=config.device,
            )
            front, replicas, close = _on_ray(load, config) if config.ray else _here(load)
            undo.append(close)
            inference = Inference(replicas, max_waiting=config.max_waiting, max_batch=config.max_batch)
            opened.append(Endpoint.of(front, inference, config))
    except BaseException:
        for close in undo:
            close()
        raise
    return opened


Opened = tuple[PolicyFront, Sequence[Replica], Callable[[], None]]


def _here(load: LoadPolicy) -> Opened:
    policy = load()
    return policy.front(), [ThreadReplica(policy)], lambda: None


def _on_ray(load: LoadPolicy, config: ServeConfig) -> Opened:
    from rdvla.serving.ray import RayOptions, start_replicas

    options = RayOptions(config.replicas, address=config.ray, cpus=config.ray_cpus, gpus=config.ray_gpus)
    started = start_replicas(load, options)
    return started.front, started.replicas(), started.close


def _anywhere(source: str) -> str:
    """Return a source that means the same in every folder; processes on other machines start in another."""
    folder = Path(source)
    return str(folder.resolve()) if find_policy(source) is None and folder.exists() else source
