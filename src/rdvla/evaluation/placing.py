"""Where an evaluation's policy runs: in this process, or on a machine of the Ray cluster with a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rdvla.control import Stop, Stops, as_stop
from rdvla.errors import RDVLAError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.policy import choose_device
from rdvla.policy.device import Device
from rdvla.rollout import Call, Policy
from rdvla.types import Observation, Prediction
from rdvla.workers.cluster import gpus
from rdvla.workers.ray import RayWorkers
from rdvla.workers.transport import Ask, Done, Link, Raised

DEATHS = 5  # of the process with the policy, in a row, before the evaluation stops

Calls = Sequence[Call]


def policy_place(config: EvaluationConfig) -> Callable[[Policy], AbstractContextManager[Policy]] | None:
    """Return what brings a policy to the cluster as the configuration says; None if workers are all here.

    Without `ray_gpus` it goes if this machine has no accelerator and the cluster has one.
    """
    if config.worker_choice.ray is None or config.ray_gpus == 0:
        return None
    return partial(_placed, wanted=config.ray_gpus, device=config.device, threads=config.threads)


@contextmanager
def _placed(policy: Policy, *, wanted: float | None, device: Device, threads: int) -> Iterator[Policy]:
    if wanted is None:
        found = min(1.0, gpus()) if device == "auto" and choose_device("auto").type == "cpu" else 0.0
        if found == 0:
            yield policy
            return
        wanted = found
    with PolicyOnRay(policy, RayWorkers(cpus=0.0, gpus=wanted), device=device, threads=threads) as there:
        yield there


class PolicyOnRay:
    """A policy in a worker on the cluster: a `Policy` that `AnswersCalls`.

    It is sent there once. If its process or machine dies, it is sent to another and asked again.

    Args:
        policy: in this process; it still draws S_0.
        transport: starts the worker.
        device: of the policy there.
        threads: of torch there.
    """

    def __init__(self, policy: Policy, transport: RayWorkers, *, device: Device, threads: int) -> None:
        self._policy, self._transport = policy, transport
        self._runner = PolicyRunner(policy, device=device, threads=threads)
        self._link: Link | None = None

    def __enter__(self) -> PolicyOnRay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._link is not None:
            self._link.stop()

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """See `Policy.initial_state`."""
        return self._policy.initial_state(batch_size, generator=generator)

    def predict(
        self, observation: Observation, *, stop: Stops | None = None, initial_state: Tensor | None = None
    ) -> Prediction:
        """See `Policy.predict`; a stop rule and S_0 are needed."""
        if stop is None or initial_state is None:
            raise TypeError("a policy on Ray needs a stop rule and S_0 with every query")
        (prediction,) = self.predict_each([Call(observation, _one(stop).describe(), initial_state)])
        return prediction

    def predict_each(self, calls: Calls) -> list[Prediction]:
        """See `AnswersCalls.predict_each`: one message there, one back.

        Raises:
            RDVLAError: the policy refuses, its process keeps dying, or the cluster has no room for it.
        """
        for _ in range(DEATHS):
            if self._link is None:
                self._link = self._transport.start(0, self._runner)
            self._link.send(calls)
            while not self._transport.wait([self._link]):
                pass
            message = self._link.receive()
            if isinstance(message, Done):
                return list(message.result)
            if isinstance(message, Raised):
                raise RDVLAError(f"the policy on the Ray cluster: {message.type}: {message.message}")
            report = self._link.death()
            self._link.stop()
            self._link = None
            logging.getLogger(__name__).warning("the policy's %s; it is sent to another", report)
        raise RDVLAError(
            f"the policy's {report}. {DEATHS} have died in a row, so this stops. What is finished is kept: "
            "the same command goes on, with --ray_gpus 0 in this process"
        )


class PolicyRunner:
    """Answers calls on a machine of the cluster: a `Runner`."""

    def __init__(self, policy: Policy, *, device: Device, threads: int) -> None:
        self._policy, self._device, self._threads = policy, device, threads
        self._ready = False

    def run(self, job: Calls, ask: Ask) -> list[Prediction]:
        """Return what the policy says to each call, in this machine's memory."""
        del ask  # nothing is unclear
        if not self._ready:
            torch.set_num_threads(self._threads)
            if isinstance(self._policy, torch.nn.Module):
                self._policy.to(choose_device(self._device))
            self._ready = True
        return [
            _here(self._policy.predict(call.observation, stop=call.stop, initial_state=call.initial_state))
            for call in job
        ]

    def close(self) -> None:
        """Keep the policy: a call that it refuses leaves it as it is."""


def _one(stop: Stops) -> Stop:
    if isinstance(stop, int | str | Stop):
        return as_stop(stop)
    raise TypeError("a policy on Ray takes one stop rule for a batch")


def _here(prediction: Prediction) -> Prediction:
    fields: dict[str, Any] = {}
    for name, value in vars(prediction).items():
        fields[name] = value.cpu() if isinstance(value, Tensor) else value
    return Prediction(**fields)
