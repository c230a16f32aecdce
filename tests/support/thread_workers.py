"""A transport of its own for the pool: workers are threads of this process, and can die."""

from __future__ import annotations

import copy
import queue
import threading
from contextlib import suppress

from rdvla.workers import serve
from rdvla.workers.transport import DisconnectedError

GONE = object()  # what a queue holds once its other side has gone


class Death(BaseException):
    """Raised in a job: takes the worker with it."""


class ThreadWorkers:
    """Starts threads and waits for their messages; remembers whom it started.

    Args:
        room: workers that begin; None: all.
        mortal: workers whose machines die at their first answer.
    """

    def __init__(self, *, room=None, mortal=0):
        self.room, self.mortal = room, mortal
        self.changed = threading.Condition()
        self.started: list[ThreadLink] = []

    def start(self, number, runner):
        begun = self.room is None or len(self.started) < self.room
        link = ThreadLink(number, copy.deepcopy(runner), self.changed, begun=begun)
        link.machine_died = len(self.started) < self.mortal
        self.started.append(link)
        return link

    def wait(self, links, timeout=None):
        with self.changed:
            seconds = 30 if timeout is None else timeout
            self.changed.wait_for(lambda: any(link.has_message for link in links), timeout=seconds)
            return [link for link in links if link.has_message]


class ThreadLink:
    """The pool's end of two queues."""

    machine_died = False

    def __init__(self, number, runner, changed, *, begun=True):
        self.begun = begun
        self.number, self.runner, self.stopped = number, runner, False
        self.to_worker, self.from_worker, self.changed = queue.SimpleQueue(), queue.SimpleQueue(), changed
        self.thread = threading.Thread(target=self._live, daemon=True)
        if begun:
            self.thread.start()

    @property
    def has_message(self):
        return not self.from_worker.empty()

    def send(self, content):
        if self.machine_died:
            self.say(GONE)
        else:
            self.to_worker.put(content)

    def receive(self):
        message = self.from_worker.get(timeout=30)
        return None if message is GONE else message

    def death(self):
        return f"thread {self.number} died"

    def stop(self):
        self.stopped = True
        self.to_worker.put(GONE)

    def _live(self):
        with suppress(Death):
            serve(ThreadLine(self), self.runner)
        self.say(GONE)

    def say(self, message):
        with self.changed:
            self.from_worker.put(message)
            self.changed.notify_all()


class ThreadLine:
    """The worker's end of the same queues."""

    def __init__(self, link):
        self.link = link

    def send(self, message):
        self.link.say(message)

    def receive(self):
        content = self.link.to_worker.get()
        if content is GONE:
            raise DisconnectedError
        return content
