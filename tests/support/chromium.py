"""Drives a headless Chromium through its DevTools protocol, with nothing but websockets."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

TIMEOUT = 60.0  # seconds for anything to happen; a busy machine starts browsers slowly
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--remote-debugging-port=0",
)  # fmt: skip


def find_chromium() -> str:
    """Path of a Chromium; skips the test if there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("there is no Chromium here")


class Page:
    """A tab."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._open = contextlib.ExitStack()
        connecting = connect(address, max_size=None, open_timeout=TIMEOUT, proxy=None)
        self._socket = self._open.enter_context(connecting)
        self._numbers = itertools.count(1)
        self.messages: list[str] = []  # errors and warnings of the page's console
        self.requests: list[str] = []  # addresses that the page has loaded
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        deadline = time.monotonic() + TIMEOUT
        while True:
            message = json.loads(self._socket.recv(timeout=max(0.1, deadline - time.monotonic())))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _note(self, message):
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.messages.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.messages.append(str([value.get("value") for value in params["args"]]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.messages.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                if not params["request"]["url"].startswith("data:"):
                    self.requests.append(params["request"]["url"])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def evaluate(self, expression):
        """Value of a JavaScript expression, as plain values."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression, timeout=TIMEOUT):
        """Wait until a JavaScript expression is true, and return its value."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            value = self.evaluate(f"(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()")
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"{expression} did not come true; console: {self.messages}; "
                             f"page: {self.evaluate('document.body.innerText')[:800]}")  # fmt: skip

    def text(self, selector="body"):
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector):
        """Click the middle of an element, as a mouse does."""
        x, y = self.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def mouse(self, kind, x, y):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, code, *, down, control=False):
        """Press or release a key, perhaps while Ctrl is held."""
        key = code.removeprefix("Key").lower() if code.startswith("Key") else code.removesuffix("Left")
        kind = "keyDown" if down else "keyUp"
        self.call("Input.dispatchKeyEvent", type=kind, code=code, key=key, modifiers=2 * control)

    def size(self, width, height, *, mobile=False, dark=False, scale=1):
        """Set the window's size in CSS pixels and the colour scheme."""
        shape = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, *, whole=False):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self._open.close()


@contextlib.contextmanager
def browser(folder: Path):
    """Start Chromium with a profile in a folder; yield a page."""
    command = [find_chromium(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    page = None
    try:
        page = Page(_first_tab(folder / "DevToolsActivePort", process))
        yield page
    finally:
        if page is not None:
            page.close()
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _first_tab(port_file: Path, process) -> str:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert process.poll() is None, f"Chromium ended with code {process.returncode}"
        if port_file.exists() and (lines := port_file.read_text().splitlines()):
            with contextlib.suppress(OSError):
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(f"http://127.0.0.1:{lines[0]}/json/list", timeout=TIMEOUT) as answer:
                    tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
                if tabs:
                    return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("Chromium did not open its debugging port")
