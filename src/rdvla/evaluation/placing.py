"""Where an evaluation's policy runs: in this process, or on machines of the Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rdvla.control import Stop, Stops, as_stop
from rdvla.errors import ConfigError, RDVLAError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.policy import choose_device
from rdvla.policy.device import Device
from rdvla.rollout import Call, Policy
from rdvla.types import Observation, Prediction
from rdvla.workers.cluster import gpus, processors
from rdvla.workers.ray import GLANCE_SECONDS, RayWorkers
from rdvla.workers.transport import Ask, Done, Link, Raised

DEATHS = 5  # of processes per copy, in a row, before the evaluation stops

Calls = Sequence[Call]


def policy_place(config: EvaluationConfig) -> Callable[[Policy], AbstractContextManager[Policy]] | None:
    """Return what brings a policy to the cluster as the configuration says; None if it stays here.

    If `ray_gpus` is not given, it goes if this machine has no accelerator and the cluster has one.
    """
    if config.worker_choice.ray is None or (config.ray_gpus == 0 and config.ray_policies == 1):
        return None
    return partial(_placed, config=config)


@contextmanager
def _placed(policy: Policy, *, config: EvaluationConfig) -> Iterator[Policy]:
    each = config.ray_gpus
    if each is None:
        lacks = config.device == "auto" and choose_device("auto").type == "cpu"
        each = min(1.0, gpus()) if lacks else 0.0
    if each == 0 and config.ray_policies == 1:
        yield policy
        return
    if not each and (taken := config.ray_policies * config.threads) >= processors():
        raise ConfigError(
            f"ray_policies {config.ray_policies} take {taken} processors and the cluster has {processors()}: "
            "leave some for the workers"
        )
    transport = RayWorkers(cpus=0.0 if each else float(config.threads), gpus=each)
    runner = PolicyRunner(policy, device=config.device, threads=config.threads)
    with PolicyOnRay(policy, runner, transport, copies=config.ray_policies) as there:
        yield there


class PolicyOnRay:
    """Copies of a policy in workers on the cluster: a `Policy` that `AnswersCalls`.

    If a copy's process or machine dies, another copy is asked in its place, and the policy is sent to another
    process or machine once there is room.

    Args:
        policy: in this process; it still draws S_0.
        runner: answers there.
        transport: starts workers.
        copies: how many; those without room yet are not waited for.
    """

    def __init__(
        self, policy: Policy, runner: PolicyRunner, transport: RayWorkers, *, copies: int = 1
    ) -> None:
        self._policy, self._runner, self._transport, self._copies = policy, runner, transport, copies
        self._links: list[Link] = []
        self._deaths = 0  # in a row

    def __enter__(self) -> PolicyOnRay:
        self._links = [self._transport.start(number, self._runner) for number in range(self._copies)]
        return self

    def __exit__(self, *_: object) -> None:
        for link in self._links:
            link.stop()

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
        """See `AnswersCalls.predict_each`: a message to each copy, and one back.

        Raises:
            RDVLAError: the policy refuses, its processes keep dying, or the cluster has no room for any.
        """
        copies = max(1, len(self._begun()))
        waiting = [list(range(first, len(calls), copies)) for first in range(min(copies, len(calls)))]
        asked: dict[int, list[int]] = {}  # copy -> indices of calls
        answers: dict[int, Prediction] = {}
        while waiting or asked:
            self._ask(calls, waiting, asked)
            ready = self._transport.wait([self._links[copy] for copy in asked], GLANCE_SECONDS)
            for copy in [copy for copy in asked if any(self._links[copy] is link for link in ready)]:
                share, predictions = asked.pop(copy), self._answer(copy)
                if predictions is None:
                    waiting.append(share)
                else:
                    answers |= zip(share, predictions, strict=True)
        return [answers[index] for index in range(len(calls))]

    def _begun(self) -> list[int]:
        return [number for number, link in enumerate(self._links) if link.begun]

    def _ask(self, calls: Calls, waiting: list[list[int]], asked: dict[int, list[int]]) -> None:
        """Give shares that wait to copies that are free; one without room keeps none from those with room."""
        begun = self._begun()
        for copy in [copy for copy in asked if begun and copy not in begun]:
            waiting.append(asked.pop(copy))
            self._links[copy].stop()
            self._links[copy] = self._transport.start(copy, self._runner)
        # Somebody has to be asked even if nobody has room: what is wrong with a start shows in an answer.
        for copy in begun or [0]:
            if waiting and copy not in asked:
                asked[copy] = waiting.pop(0)
                self._links[copy].send([calls[index] for index in asked[copy]])

    def _answer(self, copy: int) -> list[Prediction] | None:
        """Return a copy's answers; None if it has died and another is there in its place."""
        link = self._links[copy]
        message = link.receive()
        if isinstance(message, Done):
            self._deaths = 0
            return list(message.result)
        if isinstance(message, Raised):
            raise RDVLAError(f"the policy on the Ray cluster: {message.type}: {message.message}")
        report = link.death()
        link.stop()
        self._deaths += 1
        if self._deaths > DEATHS * self._copies:
            raise RDVLAError(
                f"the policy's {report}. {self._deaths} have died in a row, so this stops. What is finished "
                "is kept: the same command goes on, with --ray_gpus 0 in this process"
            )
        logging.getLogger(__name__).warning("the policy's %s; it is sent to another", report)
        self._links[copy] = self._transport.start(copy, self._runner)
        return None


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
