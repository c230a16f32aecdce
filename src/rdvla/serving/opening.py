"""Loads the policies that a configuration names, each with its replicas, for the server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rdvla.assets import find_policy
from rdvla.serving.config import ServeConfig
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.inference import Inference
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import PolicyFront, Replica
from rdvla.serving.replicas import LoadPolicy, open_replicas


def open_endpoints(config: ServeConfig) -> list[Endpoint]:
    """Load every policy, the one at the path / first.

    Raises:
        RDVLAError: a policy cannot be loaded, or does not fit the layout.
    """
    opened = []
    with ExitStack() as undo:  # what was started for one policy ends if another fails
        for name, source in config.sources.items():
            load = partial(
                load_policy,
                _anywhere(source),
                name=name,
                compiled=_code(config, name) or config.compiled,
                threads=config.threads,
                device=config.device,
            )
            if config.ray:
                front, replicas = _on_ray(load, config, undo)
            else:
                front, replicas = _here(load, config, undo)
            inference = Inference(
                replicas,
                max_waiting=config.max_waiting,
                max_batch=config.max_batch,
                grace_seconds=config.grace_seconds,
            )
            opened.append(Endpoint.of(front, inference, config))
        undo.pop_all()
    return opened


def _here(load: LoadPolicy, config: ServeConfig, undo: ExitStack) -> tuple[PolicyFront, Sequence[Replica]]:
    front, replicas = open_replicas(load, count=config.replicas)
    for replica in replicas:
        undo.callback(replica.stop)
    return front, replicas


def _on_ray(load: LoadPolicy, config: ServeConfig, undo: ExitStack) -> tuple[PolicyFront, Sequence[Replica]]:
    from rdvla.serving.ray import RayOptions, start_replicas

    options = RayOptions(config.replicas, address=config.ray, cpus=config.ray_cpus, gpus=config.ray_gpus)
    started = start_replicas(load, options)
    undo.callback(started.close)
    return started.front, started.replicas()


def _code(config: ServeConfig, name: str) -> str:
    """Return the folder of a policy's compiled head, or nothing."""
    return _anywhere(config.compiled_head) if config.compiled_head and name == config.default_name else ""


def _anywhere(source: str) -> str:
    """Return a source that means the same in every folder; other machines' processes run in another."""
    folder = Path(source)
    return str(folder.resolve()) if find_policy(source) is None and folder.exists() else source
