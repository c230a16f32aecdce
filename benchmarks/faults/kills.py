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
RANGE = 0.6  # of a phase's length, in which kills are drawn: so a run takes several


@dataclass(frozen=True)
class Kill:
    """What is going to happen to a start."""

    phase: str  # start: nothing is written yet; work; ending: results are being put together
    share: float  # of the phase's length in an undisturbed run, 0..1
    signal: str
    target: str  # everything, main or worker
    choice: float  # which of the workers, 0..1
    pause: float  # seconds from SIGSTOP to SIGKILL
    at_once: bool  # the next start does not wait until all processes of this one have ended


def draw(rng: random.Random) -> Kill:
    """Draw a kill."""
    (name, target) = rng.choices(list(WAYS), weights=list(WAYS.values()))[0]
    return Kill(
        phase=rng.choices(list(PHASES), weights=list(PHASES.values()))[0],
        share=rng.uniform(0, RANGE),
        signal=name,
        target=target,
        choice=rng.random(),
        pause=rng.uniform(0.1, 1.0),
        at_once=rng.random() < 0.3,  # a share of the starts
    )


def deliver(kill: Kill, *, main: int, everything: Sequence[psutil.Process], workers: Sequence[int]) -> str:
    """Send the signals; return whom they went to: a missing worker is replaced by everything."""
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
