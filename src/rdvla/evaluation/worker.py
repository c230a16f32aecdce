"""The environment's side of a rollout: a process that plays one episode at a time."""

from __future__ import annotations

import gc
import signal
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from rdvla.evaluation.environment import Environment, MakeEnvironment
from rdvla.evaluation.messages import Failed, Finished, Job, Place, Query, Reply
from rdvla.evaluation.play import play


def serve(connection: Connection, make: MakeEnvironment) -> None:
    """Process entry point: play every `Job` that arrives, with the environment of the last task kept open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears ctrl-c and closes the connection
    stage = _Stage(make)

    def ask(query: Query) -> Reply:
        connection.send(query)
        reply: Reply = connection.recv()
        return reply

    while (job := _receive(connection)) is not None:
        try:
            outcome: Finished | Failed = play(job, stage.open(job.place), ask)
        except (EOFError, BrokenPipeError):  # the parent has gone
            return
        except Exception as error:  # noqa: BLE001  # whatever the episode raised is reported to the parent
            outcome = Failed(type(error).__name__, str(error), traceback.format_exc())
            stage.clear()  # it may be in a broken state
        connection.send(outcome)


class _Stage:
    """The one environment that is open: a simulator can take gigabytes, so another task closes it first."""

    def __init__(self, make: MakeEnvironment) -> None:
        self._make = make
        self._place: Place | None = None
        self._environment: Environment | None = None

    def open(self, place: Place) -> Environment:
        """The environment of an environment's task."""
        if self._environment is None or place != self._place:
            self.clear()
            self._environment, self._place = self._make(*place), place
        return self._environment

    def clear(self) -> None:
        """Close what is open."""
        if self._environment is not None:
            with suppress(Exception):  # after an exception even closing may fail
                self._environment.close()
            self._environment = None
            gc.collect()  # simulators refer to themselves in circles, and their memory is needed now


def _receive(connection: Connection) -> Job | None:
    """The next episode, or None when the parent has gone."""
    try:
        job: Job = connection.recv()
    except EOFError:
        return None
    return job
