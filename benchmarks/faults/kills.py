"""Draws when, how and what to kill, and does it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from benchmarks.faults.cluster import RayNodes
from benchmarks.faults.processes import workers_of

PHASES = {"start": 0.1, "work": 0.7, "ending": 0.2}  # -> share of the kills
WAYS = {  # (signal, target) -> weight; everything: all processes of the run, main: only the first
    ("SIGKILL", "everything"): 40,
    ("SIGKILL", "main"): 15,
    ("SIGKILL", "worker"): 15,
    ("SIGTERM", "main"): 8,
    ("SIGINT", "everything"): 7,  # as Ctrl-C in a terminal
    ("SIGHUP", "everything"): 5,  # as a terminal that closes
    ("SIGSTOP, SIGKILL", "worker"): 5,
    ("SIGSTOP, SIGKILL", "main"): 5,
}
RAY_WAYS = {
    ("SIGKILL", "everything"): 20,
    ("SIGTERM", "main"): 5,
    ("SIGINT", "everything"): 5,
    ("SIGHUP", "everything"): 5,
    ("SIGKILL", "worker"): 35,
    ("SIGSTOP, SIGKILL", "worker"): 5,
    ("SIGKILL", "node"): 25,
}
LIVES_ON = {"worker", "node"}  # after their death the command goes on
RANGE = 0.6  # of a phase's length, in which kills are drawn: so a run takes several


@dataclass(frozen=True)
class Kill:
    """What is going to happen to a start."""

    phase: str  # start: nothing is written yet; work; ending: results are being put together
    share: float  # of the phase's length in an undisturbed run, 0..1
    signal: str
    target: str  # everything, main, worker or node
    choice: float  # which of the workers or nodes, 0..1
    pause: float  # seconds from SIGSTOP to SIGKILL
    at_once: bool  # the next start does not wait until all processes of this one have ended


def draw(rng: random.Random, *, on_ray: bool = False) -> Kill:
    """Draw a kill."""
    ways = RAY_WAYS if on_ray else WAYS
    (name, target) = rng.choices(list(ways), weights=list(ways.values()))[0]
    return Kill(
        phase=rng.choices(list(PHASES), weights=list(PHASES.values()))[0],
        share=rng.uniform(0, RANGE),
        signal=name,
        target=target,
        choice=rng.random(),
        pause=rng.uniform(0.1, 1.0),
        at_once=rng.random() < 0.3,  # a share of the starts
    )


def deliver(kill: Kill, *, main: int, everything: Sequence[psutil.Process], cluster: RayNodes | None) -> str:
    """Send the signals; return whom they went to: a missing worker is replaced by everything.

    Args:
        kill: says what to send to whom.
        main: the first process of the command.
        everything: all its processes on this machine outside of a cluster.
        cluster: where its workers are; None: they are among its processes.
    """
    if kill.target == "node" and cluster is not None:
        cluster.kill_node(kill.choice)
        return "node"
    workers = workers_of(everything, main=main) if cluster is None else cluster.workers()
    target = "everything" if kill.target == "worker" and not workers else kill.target
    pids = {
        "everything": [process.pid for process in everything],
        "main": [main],
        "worker": [workers[int(kill.choice * len(workers))]] if workers else [],
    }[target]
    for number, name in enumerate(kill.signal.split(", ")):
        time.sleep(kill.pause if number else 0)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, name))
    return target
