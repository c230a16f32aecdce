"""A live page on a free port, and a watcher that speaks to it as a browser does."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.parse
import urllib.request

from websockets.sync.client import connect

from rdvla.control import Desk
from rdvla.live import Hub, LivePage, LiveServer
from tests.support.live_events import came

TIMEOUT = 60  # seconds for a message to come


class Shown:
    """A hub and a desk behind a page on a free port."""

    def __init__(self, key=None, *, port=0, farewell="that was all", **options):
        self.hub, self.desk = Hub(), Desk()
        self.page = LivePage(self.hub, self.desk, key, **options)
        self.server = LiveServer(self.page, port=port, farewell=farewell)

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)

    def add(self, robot="arm", **changes):
        self.desk.add(robot)
        self.hub.publish(came(robot, **changes))

    def fetch(self, path="/live", **headers):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        address = self.server.address.removesuffix("/live") + path
        request = urllib.request.Request(address, headers=headers)
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def watch(self, **options):
        return Watcher(self.server.address, **options)


class Watcher:
    """A browser's socket; what it is told is collected by kind.

    Args:
        reads_ahead: as browsers do; otherwise what is not asked for waits on the server's side.
    """

    def __init__(self, address, *, key=None, origin=None, host=None, reads_ahead=True):
        headers = {} if host is None else {"Host": host}
        self._open = contextlib.ExitStack()
        self.socket = self._open.enter_context(
            connect(
                f"ws{address.removeprefix('http')}/socket",
                sock=None if reads_ahead else _narrow_socket(address),
                max_queue=16 if reads_ahead else 1,
                origin=origin,
                additional_headers=headers,
                proxy=None,
                open_timeout=TIMEOUT,
            )
        )
        self.robots, self.rows, self.shown, self.thumbnails = {}, {}, None, {}
        self.errors, self.pictured = [], []  # pictured: numbers of the queries whose pictures came
        self.hello = self.receive()
        if key is not None:
            self.send(key=key)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._open.close()

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def receive(self):
        message = json.loads(self.socket.recv(timeout=TIMEOUT))
        if message["type"] == "news":
            self.robots |= {robot["robot"]: robot for robot in message["robots"]}
            for name in message["removed"]:
                del self.robots[name]
            shown = message.get("shown", {})
            for name, rows in [*message["rows"].items(), (shown.get("robot"), shown.get("rows", []))]:
                self.rows.setdefault(name, {}).update({row[0]: row for row in rows})
            if shown:
                self.shown = shown
                self.pictured += [shown["number"]] if "number" in shown else []
            self.thumbnails |= message.get("thumbnails", {})
        if message["type"] == "error":
            self.errors.append(message["text"])
        return message

    def until(self, condition):
        while not condition(self):
            self.receive()
        return self


def _narrow_socket(address):
    """Connect with a small receive buffer; the system's own grows to 32 MiB on some machines."""
    parts = urllib.parse.urlsplit(address)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # bytes; has to be set before it connects
    narrow.connect((parts.hostname, parts.port))
    return narrow
