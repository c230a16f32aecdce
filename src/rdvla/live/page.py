"""The live page behind a websockets server: its files over HTTP, its news over a WebSocket.

A server passes every request below ``/live`` to `LivePage.respond`, and connections to ``/live/socket`` that
it lets through to `LivePage.watch`. Each watcher is sent what changed since its last message, at most
`RATE` times per second. So a slow watcher skips queries and holds up nobody.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rdvla.control import Desk
from rdvla.errors import InputError
from rdvla.live.access import origin_problem, same_key
from rdvla.live.driving import Driving
from rdvla.live.hub import Hub, RobotView
from rdvla.live.messages import robot_message, row_message, shown_message
from rdvla.live.pictures import Pictures

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

RATE = 10.0  # messages per second to a watcher at most
MOST_WATCHERS = 20
MOST_STRANGERS = 20  # who have not sent the key yet
KEY_TIMEOUT = 10.0  # seconds in which a watcher has to send the key
LONGEST_MESSAGE = 20_000  # bytes that a watcher may send
OVERVIEW_ROWS = 32  # queries that are sent of robots that are not chosen
THUMBNAIL_SECONDS = 1.0  # between a robot's small pictures in the overview
MOST_THUMBNAILS = 24  # in a message
PATH = "/live"
SOCKET = "/live/socket"

# Only these files are served; `/live` is the page itself.
FILES = {
    "/live": ("page.html", "text/html; charset=utf-8"),
    "/live/style.css": ("style.css", "text/css; charset=utf-8"),
    "/live/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/live/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("app", "connection", "charts", "view", "drive")
    },
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Connection": "close",
}


@dataclass
class _Watcher:
    """What one browser has been sent."""

    chosen: str | None = None  # the robot it has asked for
    shown: str | None = None  # the robot it is shown
    sent: dict[str, int] = field(default_factory=dict)  # robot -> rows so far
    told: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # robot -> what was said of it
    shown_told: tuple[Any, ...] = ()
    pictured: dict[str, int] = field(default_factory=dict)  # robot -> its queries at its last thumbnail
    thumbnails_due: float = 0.0  # `time.monotonic()`


class LivePage:
    """Shows a hub to browsers, and passes on what people there ask of the robots.

    Args:
        hub: what to show.
        desk: where people's wishes go.
        key: a secret that watchers must know; None: everyone who reaches the server may watch and step in.
        title: what is running, for the page's head.
        origins: origins besides the server's own whose pages may connect; see `access.origin_problem`.
    """

    def __init__(
        self,
        hub: Hub,
        desk: Desk,
        key: str | None = None,
        *,
        title: str = "",
        origins: Collection[str] = (),
    ) -> None:
        self._hub, self._desk, self._key = hub, desk, key
        self._title, self._origins = title, tuple(origins)
        self._pictures = Pictures()
        self._driving = Driving(hub, desk)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live page")
        self._strangers: list[ServerConnection] = []  # who have not sent the key yet, oldest first
        self.watchers = 0

    @staticmethod
    def owns(path: str) -> bool:
        """Return whether a request's path belongs to the page."""
        return path.partition("?")[0] == PATH or path.startswith(f"{PATH}/")

    def respond(self, request: Request) -> Response | None:
        """Answer an HTTP request below ``/live``; return None to let a WebSocket through to `watch`."""
        path = request.path.partition("?")[0]
        problem = origin_problem(
            request.headers.get("Origin"),
            request.headers.get("Host"),
            keyed=self._key is not None,
            origins=self._origins,
        )
        if problem is not None:
            return _response(HTTPStatus.FORBIDDEN, f"{problem}\n".encode())
        if path == SOCKET:
            return None
        if path not in FILES:
            return _response(HTTPStatus.NOT_FOUND, b"there is no such page; the live page is at /live\n")
        name, kind = FILES[path]
        return _response(HTTPStatus.OK, files("rdvla.live").joinpath("static", name).read_bytes(), kind=kind)

    async def watch(self, connection: ServerConnection) -> None:
        """Serve a browser on ``/live/socket`` until it goes."""
        from websockets.exceptions import ConnectionClosed

        connection.protocol.max_message_size = LONGEST_MESSAGE  # robots' observations may be longer
        with suppress(ConnectionClosed):
            hello = {"type": "hello", "title": self._title, "key_needed": self._key is not None}
            await connection.send(json.dumps(hello))
            if self._key is not None and not await self._knows_key(connection, self._key):
                return
            if self.watchers >= MOST_WATCHERS:
                await connection.close(1013, f"{MOST_WATCHERS} watch already: try again later")
                return
            self.watchers += 1
            watcher = _Watcher()
            try:
                await self._serve(connection, watcher)
            finally:
                self.watchers -= 1
                self._driving.leave(watcher)

    async def _knows_key(self, connection: ServerConnection, key: str) -> bool:
        """Ask for the key. Strangers push each other out, the oldest first, and nobody who knows it."""
        if len(self._strangers) >= MOST_STRANGERS:
            self._strangers.pop(0).transport.abort()
        self._strangers.append(connection)
        try:
            return await self._admitted(connection, key)
        finally:
            if connection in self._strangers:
                self._strangers.remove(connection)

    async def _admitted(self, connection: ServerConnection, key: str) -> bool:
        try:
            async with asyncio.timeout(KEY_TIMEOUT):
                message = _parse(await connection.recv())
        except (TimeoutError, InputError):
            message = {}
        if same_key(message.get("key"), key):
            return True
        await asyncio.sleep(1.0)  # whoever guesses has to wait
        await connection.close(1008, "wrong key")
        return False

    async def _serve(self, connection: ServerConnection, watcher: _Watcher) -> None:
        """Listen and send until the connection closes."""
        sending = asyncio.create_task(self._send_news(connection, watcher))
        try:
            async for text in connection:
                about = None
                try:
                    message = _parse(text)
                    about = "steer" if "steer" in message else None
                    self._take(watcher, message)
                except InputError as error:
                    told = {"type": "error", "about": about, "text": str(error)}
                    await connection.send(json.dumps(told))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _take(self, watcher: _Watcher, message: dict[str, Any]) -> None:
        if "watch" in message:
            robot = message["watch"]
            watcher.chosen = robot if isinstance(robot, str) else None
        elif "robot" in message:
            self._driving.take(watcher, message)

    async def _send_news(self, connection: ServerConnection, watcher: _Watcher) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # In a thread of its own: pictures take milliseconds, and the loop may serve robots.
            message = await loop.run_in_executor(self._thread, self._news, watcher)
            if message is not None:
                await connection.send(message)  # waits for a slow watcher, and for it alone
            await asyncio.sleep(1 / RATE)

    def _news(self, watcher: _Watcher) -> str | None:
        """Return what a watcher does not know yet; None if there is nothing."""
        views = self._hub.robots()
        chosen = watcher.chosen  # may change meanwhile: this runs in another thread
        if chosen != watcher.shown:
            watcher.shown, watcher.shown_told = chosen, ()
            watcher.sent.pop(chosen or "", None)  # its whole history, not just the overview's
        changed, rows = [], {}
        for name, view in views.items():
            place, driver = self._desk.look(name), self._driving.driver(name, watcher)
            told = (view.state, place.phase, place.cause, driver, view.queries)
            if watcher.told.get(name) == told:
                continue
            changed.append(robot_message(view, place=place, driver=driver))
            new = self._new_rows(watcher, view)
            if new:
                rows[name] = new
            watcher.told[name] = told
        removed = [name for name in watcher.told if name not in views]
        for name in removed:
            del watcher.told[name]
            watcher.sent.pop(name, None)
            watcher.pictured.pop(name, None)
        message: dict[str, Any] = {"robots": changed, "removed": removed, "rows": rows}
        message |= self._shown(watcher, views) | self._thumbnails(watcher, views)
        if not any(message.values()):
            return None
        return json.dumps({"type": "news", "now": time.time(), **message}, allow_nan=False)

    def _new_rows(self, watcher: _Watcher, view: RobotView) -> list[list[Any]]:
        name = view.state.robot
        sent = watcher.sent.get(name)
        watcher.sent[name] = view.queries
        if sent is None:
            kept = view.rows if name == watcher.shown else view.rows[-OVERVIEW_ROWS:]
        else:
            kept = tuple(row for row in view.rows if row.serial >= sent)
        return [row_message(row) for row in kept]

    def _thumbnails(self, watcher: _Watcher, views: dict[str, RobotView]) -> dict[str, Any]:
        now = time.monotonic()
        if now < watcher.thumbnails_due:
            return {}
        watcher.thumbnails_due = now + THUMBNAIL_SECONDS
        new = [
            (name, view.last.images, view.queries)
            for name, view in reversed(views.items())  # the newest robots first
            if view.last is not None and watcher.pictured.get(name) != view.queries
        ]
        watcher.pictured |= {name: queries for name, _, queries in new[:MOST_THUMBNAILS]}
        pictures = {name: self._pictures.thumbnail(images) for name, images, _ in new[:MOST_THUMBNAILS]}
        return {"thumbnails": pictures} if pictures else {}

    def _shown(self, watcher: _Watcher, views: dict[str, RobotView]) -> dict[str, Any]:
        view = views.get(watcher.shown or "")
        if view is None:
            return {}
        told = (view.state.robot, view.facts, view.queries, view.steps)
        if told == watcher.shown_told:
            return {}
        whole = () if watcher.shown_told else self._new_rows(watcher, view)
        watcher.shown_told = told
        return {"shown": shown_message(view, self._pictures) | ({"rows": whole} if whole else {})}


def _parse(text: str | bytes) -> dict[str, Any]:
    if isinstance(text, bytes):
        raise InputError("a message must be a text")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("a message must be JSON, and not nested deeply") from error
    if not isinstance(message, dict):
        raise InputError("a message must be a JSON object")
    return message


def _response(status: HTTPStatus, body: bytes, *, kind: str = "text/plain; charset=utf-8") -> Response:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    headers = Headers({**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))})
    return Response(status.value, status.phrase, headers, body)
