"""Loads the policies that a configuration names, each with its replicas, for the server."""

from __future__ import annotations

from functools import partial

from rdvla.serving.config import ServeConfig
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.inference import Inference
from rdvla.serving.loading import load_policy
from rdvla.serving.replicas import open_replicas


def open_endpoints(config: ServeConfig) -> list[Endpoint]:
    """Load every policy, the one at the path / first.

    Raises:
        RDVLAError: a policy cannot be loaded, or does not fit the layout.
    """
    opened = []
    for name, source in config.sources.items():
        code = config.compiled_head if name == config.default_name else ""
        load = partial(
            load_policy,
            source,
            name=name,
            compiled=code or config.compiled,
            threads=config.threads,
            device=config.device,
        )
        front, replicas = open_replicas(load, count=config.replicas)
        inference = Inference(replicas, max_waiting=config.max_waiting, max_batch=config.max_batch)
        opened.append(Endpoint.of(front, inference, config))
    return opened
