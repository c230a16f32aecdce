"""What strangers, and clients with a fault, cannot do to the server or to each other."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import msgpack
import numpy as np
import pytest

pytest.importorskip("openpi_client")

import websockets.sync.client as websocket
from openpi_client.msgpack_numpy import packb, unpackb
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rdvla.control import Desk
from rdvla.errors import ConfigError, InputError
from rdvla.serving import Endpoint, PolicyServer, ServeConfig
from rdvla.serving.requests import read_options
from tests.support.serving import DoublePolicy, make_message, open_server, running_server, wait_until

KEY = "correct-horse"


def status_of(address: str, **headers: str) -> int:
    """HTTP status of a refused handshake."""
    with (
        pytest.raises(InvalidStatus) as refused,
        websocket.connect(address, additional_headers=headers, open_timeout=20),
    ):
        pass
    return refused.value.response.status_code


def closing(raw: websocket.ClientConnection, *messages: str | bytes) -> tuple[str, int]:
    """Send messages; return the server's sentence and the code it closes with."""
    for message in messages:
        raw.send(message)
    told = raw.recv(timeout=20)
    assert isinstance(told, str)
    with pytest.raises(ConnectionClosed) as closed:
        raw.recv(timeout=20)
    assert closed.value.rcvd is not None
    return told, closed.value.rcvd.code


# --- the key ---


def test_clients_need_the_key(monkeypatch):
    monkeypatch.setenv("RDVLA_API_KEY", KEY)
    with running_server() as address:
        assert WebsocketClientPolicy(address, api_key=KEY).infer(make_message())["depth"] == 4
        for wrong in ("Api-Key wrong", f"Api-Key {KEY}x", f"Basic {KEY}", KEY, "", "Api-Key"):
            assert status_of(address, Authorization=wrong) == 401
        assert status_of(address) == 401


def test_the_metrics_need_the_key_and_the_health_does_not(monkeypatch):
    monkeypatch.setenv("RDVLA_API_KEY", KEY)
    with running_server() as address:
        page = address.replace("ws", "http", 1)
        assert urllib.request.urlopen(f"{page}/healthz", timeout=20).read() == b"OK\n"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{page}/metrics", timeout=20)
        with refused.value:  # unread, it would keep its connection open
            assert refused.value.code == 401
        asked = urllib.request.Request(f"{page}/metrics", headers={"Authorization": f"Api-Key {KEY}"})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert 'rdvla_refused_connections_total{kind="key"} 1.0' in answer.read().decode()


def test_the_key_may_be_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RDVLA_API_KEY", "another")
    (tmp_path / "key").write_text(f"{KEY}\n")
    with running_server(api_key_file=str(tmp_path / "key")) as address:
        assert WebsocketClientPolicy(address, api_key=KEY).infer(make_message())["depth"] == 4
        assert status_of(address, Authorization="Api-Key another") == 401


@pytest.mark.parametrize("key", ["", "  \n", "two words", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused(key, tmp_path):
    (tmp_path / "key").write_text(key, encoding="utf-8")
    with pytest.raises(ConfigError, match="api_key_file"):
        PolicyServer(ServeConfig(policy="x", port=0, api_key_file=str(tmp_path / "key")), endpoints=[])
    with pytest.raises(ConfigError, match=r"api_key_file .*nowhere cannot be read"):
        PolicyServer(ServeConfig(policy="x", port=0, api_key_file=str(tmp_path / "nowhere")), endpoints=[])


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A folder with cert.pem and key.pem for 127.0.0.1, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    words = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    )
    subprocess.run(
        [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def test_with_a_certificate_the_connection_is_encrypted(certificate):
    options = {"tls_certificate": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with running_server(**options) as address:
        assert address.startswith("wss://127.0.0.1:")
        with websocket.connect(address, ssl=trusting, compression=None) as raw:
            assert unpackb(raw.recv(timeout=20))["policy"] == "double"
            raw.send(packb(make_message()))
            assert unpackb(raw.recv(timeout=20))["depth"] == 4
        with pytest.raises(ssl.SSLCertVerificationError), websocket.connect(address):
            pass


def test_a_certificate_that_cannot_be_used_is_refused(certificate, tmp_path):
    cert, key = str(certificate / "cert.pem"), str(certificate / "key.pem")
    nowhere = str(tmp_path / "none")
    (tmp_path / "empty").write_text("")
    for wrong, sentence in (
        ({"tls_certificate": cert}, "TLS needs both"),
        (
            {"tls_certificate": nowhere, "tls_key": key},
            "tls_certificate .*none cannot be read",
        ),
        ({"tls_certificate": cert, "tls_key": str(tmp_path / "empty")}, "PEM files that belong together"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            PolicyServer(ServeConfig(policy="x", port=0, **wrong), endpoints=[])


# --- limits ---


def test_more_clients_than_the_limit_are_refused_until_another_goes():
    with open_server(connections=2) as server:
        one, other = (websocket.connect(server.address).__enter__() for _ in range(2))
        one.recv(timeout=20)
        other.recv(timeout=20)
        assert status_of(server.address) == 503
        one.close()

        def let_in() -> bool:
            try:
                with websocket.connect(server.address) as raw:
                    return bool(raw.recv(timeout=20))
            except InvalidStatus:
                return False

        assert wait_until(let_in)
        other.close()


def test_a_client_that_asks_nothing_is_disconnected():
    with running_server(idle_seconds=0.2) as address, websocket.connect(address) as raw:
        raw.recv(timeout=20)
        with pytest.raises(ConnectionClosed) as closed:
            raw.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "no message came for too long")


def test_a_message_beyond_the_limit_is_not_read():
    with running_server(message_mb=0.5) as address:
        with websocket.connect(address, compression=None) as raw:
            raw.recv(timeout=20)
            with pytest.raises(ConnectionClosed) as closed:
                raw.send(bytes(2**20))
                raw.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert WebsocketClientPolicy(address).infer(make_message())["depth"] == 4


def array_of(shape: list[int], data: bytes, dtype: str = "|u1") -> dict:
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02\x03",
        msgpack.packb([1, 2]),
        b"\x81" * 500 + b"\xc0",
        b"\x91" * 5000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\x7f\xff\xff\xff",
        b"\xc6\x7f\xff\xff\xff",
        msgpack.packb({"images/front": array_of([100_000, 100_000, 3], b"\0")}),
        msgpack.packb({"images/front": array_of([2**62, 2**62, 3], b"\0")}),
        msgpack.packb({"images/front": array_of([-1, 8, 3], bytes(192))}),
        msgpack.packb({"images/front": array_of([0, 2**40, 3], b"")}),
        msgpack.packb({"state": array_of([1], bytes(8), "|O")}),
        msgpack.packb({"state": array_of([1], bytes(8), "M8[s]")}),
        msgpack.packb({"prompt": msgpack.ExtType(5, b"x")}),
        packb(make_message())[:-7],
        packb(make_message()) + b"\0",
        packb({f"key{number}": number for number in range(10_000)}),
    ],
)  # fmt: skip
def test_bytes_that_are_no_observation_end_their_own_connection_alone(message):
    with running_server() as address:
        other = WebsocketClientPolicy(address)
        with websocket.connect(address, compression=None) as raw:
            raw.recv(timeout=20)
            told, code = closing(raw, message)
        assert code == 1011
        assert 0 < len(told) < 1000
        assert "Traceback" not in told
        assert other.infer(make_message())["depth"] == 4


def test_a_text_frame_is_no_message():
    with running_server() as address, websocket.connect(address) as raw:
        raw.recv(timeout=20)
        told, code = closing(raw, "hello")
    assert (told, code) == (
        "a message is a binary frame of msgpack, as openpi's client sends; got a text",
        1011,
    )


def test_an_image_bomb_is_refused_by_its_size():
    """A legal message whose image has more pixels than a camera of this policy can give."""
    with running_server(message_mb=30) as address, websocket.connect(address, compression=None) as raw:
        raw.recv(timeout=20)
        bomb = np.zeros((2000, 4000, 3), dtype=np.uint8)
        told, _ = closing(raw, packb(make_message(**{"images/front": bomb})))
    assert told.startswith("'images/front' is 4000x2000 pixels, this server takes at most 16x16")


def test_a_page_of_another_site_cannot_use_a_browser_here():
    with running_server() as address:
        assert status_of(address, Origin="https://evil.example") == 403
        assert status_of(address, Origin=address.replace("ws", "http", 1)) == 403


def test_a_client_that_vanishes_in_the_middle_of_a_message_leaves_nothing_behind():
    with open_server() as server:
        other = WebsocketClientPolicy(server.address)
        for _ in range(3):
            raw = websocket.connect(server.address, compression=None).__enter__()
            raw.recv(timeout=20)
            # The head of a frame that promises more than will come.
            raw.socket.sendall(b"\x82\xfe\x10\x00" + bytes(4) + bytes(100))
            raw.socket.shutdown(socket.SHUT_RDWR)
            raw.socket.close()
        assert wait_until(lambda: 'rdvla_connections{policy="double"} 1.0' in metrics(server))
        assert other.infer(make_message())["depth"] == 4


def test_the_query_of_a_client_that_vanishes_is_given_up():
    double = DoublePolicy(seconds=0.0)
    with open_server(double) as server:
        double.seconds = 60.0
        raw = websocket.connect(server.address, compression=None).__enter__()
        raw.recv(timeout=20)
        raw.send(packb(make_message()))
        assert wait_until(lambda: 'rdvla_open_queries{policy="double"} 1.0' in metrics(server))
        raw.socket.shutdown(socket.SHUT_RDWR)
        raw.socket.close()
        assert wait_until(lambda: 'rdvla_open_queries{policy="double"} 0.0' in metrics(server))


def metrics(server: PolicyServer) -> list[str]:
    return server.metrics.text()[0].decode().splitlines()


# --- the log ---


def test_the_log_has_no_instruction_and_no_key_unless_instructions_are_asked_for(monkeypatch, caplog):
    monkeypatch.setenv("RDVLA_API_KEY", KEY)
    private = "bring the letter of Ms Grey"
    lines = {}
    for shown in (False, True):
        caplog.clear()
        with (
            caplog.at_level(logging.INFO, logger="rdvla.serving"),
            running_server(log_queries=True, log_instructions=shown) as address,
        ):
            WebsocketClientPolicy(address, api_key=KEY).infer(make_message(prompt=private))
            status_of(address, Authorization="Api-Key wrong")
        facts = [getattr(record, "facts", {}) for record in caplog.records]
        lines[shown] = json.dumps(facts)
        events = {record.getMessage() for record in caplog.records}
        assert {"query", "connected", "untrained instruction", "stopped"} <= events
        assert any(each.get("connection") == "robot-0" for each in facts)
    assert private not in lines[False]
    assert private in lines[True]
    assert KEY not in lines[True]


@pytest.mark.parametrize("told", [False, True])
def test_the_log_says_why_a_query_was_refused(caplog, told):
    private = "bring the letter of Ms Grey"
    double = DoublePolicy(failure=InputError(f"this is too hard: {private!r}"))
    with (
        caplog.at_level(logging.INFO, logger="rdvla.serving"),
        running_server(double, log_instructions=told) as address,
        pytest.raises(RuntimeError, match="Ms Grey"),
    ):
        WebsocketClientPolicy(address).infer(make_message(prompt=private))
    facts = next(record.facts for record in caplog.records if record.getMessage() == "query refused")
    assert facts["why"].startswith("this is too hard: ")
    assert (private in facts["why"]) is told


def test_actions_that_are_not_finite_reach_no_robot():
    with open_server() as server:
        with pytest.raises(RuntimeError, match="NaN or infinite actions"):
            WebsocketClientPolicy(server.address).infer(make_message(state=(3e38, 3e38)))
        assert (
            'rdvla_errors_total{kind="not_finite",policy="double"} 1.0' in server.metrics.text()[0].decode()
        )


def test_an_instruction_without_end_is_refused():
    with running_server() as address, pytest.raises(RuntimeError, match="at most 4096") as refused:
        WebsocketClientPolicy(address).infer(make_message(prompt="push " * 1000))
    assert "push push" not in str(refused.value)


@pytest.mark.parametrize("value", [True, np.True_, "5", np.float64("nan"), 0, 1j])
def test_a_deadline_must_be_a_number(value):
    with pytest.raises(InputError, match="deadline_ms must be milliseconds"):
        read_options({"rdvla": {"deadline_ms": value}}, depth_limit=8, chunk_size=4)


@pytest.mark.parametrize("message_mb", [0.0001, 1e-9])
def test_a_port_that_could_take_no_observation_is_not_opened(message_mb):
    double = DoublePolicy()
    with pytest.raises(ConfigError, match="too small for any observation"):
        Endpoint.of(double, double, ServeConfig(policy="x", message_mb=message_mb))


@pytest.mark.parametrize("source", [None, "", " ", 3])
def test_a_policy_without_a_source_is_named(source):
    with pytest.raises(ConfigError, match=r"policies\.pick must be a folder"):
        ServeConfig(policy="metaworld", policies={"pick": source})


def test_a_desk_without_watchers_holds_nobody_back():
    with running_server(desk=Desk()) as address:
        assert WebsocketClientPolicy(address).infer(make_message())["phase"] == "autonomous"
