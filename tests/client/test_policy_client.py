"""Queries and replies over a connection that breaks, refuses, lags or lies."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from http import HTTPStatus

import numpy as np
import pytest

from rdvla_client import (
    Backoff,
    BusyError,
    ClientError,
    ConnectionLostError,
    Limits,
    NonFiniteError,
    Patience,
    PolicyClient,
    RefusedError,
    ReplyTimeoutError,
    ServerError,
    UnsupportedError,
    WireError,
)
from rdvla_client.address import websocket_address
from tests.support.policy_server import Close, Vanish, eventually, policy_server, zeros

QUICK = Patience(open_s=10, reply_s=20, reconnect_s=0)
OBSERVATION = {
    "observation/image": np.zeros((4, 4, 3), np.uint8),
    "observation/state": np.zeros(3),
    "prompt": "go",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_turn(*answers):
    """An answer for each message in turn; the last one for all that follow."""
    left = list(answers)

    def answer(message):
        current = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(current, Exception):
            raise current
        return current(message) if callable(current) else current

    return answer


@pytest.mark.parametrize(
    ("written", "port", "address"),
    [
        ("robot.local", None, "ws://robot.local:8000"),
        ("robot.local", 9000, "ws://robot.local:9000"),
        ("10.0.0.3:8001", None, "ws://10.0.0.3:8001"),
        ("host:8001/drawer", None, "ws://host:8001/drawer"),
        ("ws://host", None, "ws://host"),
        ("wss://host/drawer", None, "wss://host/drawer"),
        ("ws://host", 8001, "ws://host:8001"),
        ("https://host:1", None, "wss://host:1"),
        ("[::1]:8001", None, "ws://[::1]:8001"),
    ],
)
def test_addresses_are_read_as_people_write_them(written, port, address):
    assert websocket_address(written, port) == address


@pytest.mark.parametrize(
    ("written", "port"),
    [
        ("", None),
        ("host:x", None),
        ("host:99999", None),
        ("ftp://host", None),
        ("host:1", 2),
        ("ws://a:b@host", None),
    ],
)
def test_what_is_no_address_is_refused(written, port):
    with pytest.raises(ValueError, match="address"):
        PolicyClient(written, port=port)


def test_a_query_is_sent_as_it_is_and_answered():
    with policy_server() as server, PolicyClient(server.address) as client:
        assert client.metadata["server"] == "rdvla test"
        reply = client.infer(OBSERVATION)
        assert reply["actions"].shape == (4, 2)
        (message,) = server.messages
        assert message.keys() == OBSERVATION.keys()
        np.testing.assert_array_equal(message["observation/image"], OBSERVATION["observation/image"])
        assert client.ping_ms() >= 0


def test_openpis_client_and_ours_get_the_same_reply():
    theirs = pytest.importorskip("openpi_client.websocket_client_policy")
    with policy_server() as server, PolicyClient(server.address) as client:
        host, port = server.address.split(":")
        other = theirs.WebsocketClientPolicy(host, int(port))
        assert other.get_server_metadata() == client.metadata
        np.testing.assert_array_equal(
            other.infer(OBSERVATION)["actions"], client.infer(OBSERVATION)["actions"]
        )
        first, second = server.messages
        assert first.keys() == second.keys()


def test_nothing_is_connected_before_the_first_use():
    with policy_server() as server, PolicyClient(server.address) as client:
        assert not client.connected
        assert server.paths == []
        client.connect()
        assert client.connected


def test_the_path_chooses_the_policy_and_the_key_is_sent():
    def refuse(authorization):
        return None if authorization == "Api-Key s3cret" else (HTTPStatus.UNAUTHORIZED, "a key is needed\n")

    with policy_server(refuse=refuse) as server:
        with PolicyClient(f"{server.address}/drawer", api_key="s3cret") as client:
            client.infer(OBSERVATION)
        assert server.paths == ["/drawer"]
        with (
            PolicyClient(server.address, api_key="wrong") as client,
            pytest.raises(RefusedError, match="key") as caught,
        ):
            client.infer(OBSERVATION)
        assert caught.value.status == 401
        assert "wrong" not in str(caught.value)


def test_a_server_that_is_full_is_asked_again_until_it_has_room():
    refusals = [(HTTPStatus.SERVICE_UNAVAILABLE, "full\n")] * 2
    with policy_server(refuse=lambda key: refusals.pop() if refusals else None) as server:
        patience = Patience(reconnect_s=30, backoff=Backoff(first_s=0.01, longest_s=0.02))
        with PolicyClient(server.address, patience=patience) as client:
            client.infer(OBSERVATION)
    with (
        policy_server(refuse=lambda key: (HTTPStatus.SERVICE_UNAVAILABLE, "full\n")) as server,
        PolicyClient(server.address, patience=QUICK) as client,
        pytest.raises(RefusedError, match="full"),
    ):
        client.infer(OBSERVATION)


def test_options_are_sent_only_with_the_query_that_has_them():
    with policy_server() as server, PolicyClient(server.address) as client:
        client.infer(OBSERVATION, max_depth=4, deadline_ms=30.5, stop="kl:0.001", seed=7, executed=3)
        client.infer(OBSERVATION)
        assert server.options == [
            {"max_depth": 4, "deadline_ms": 30.5, "stop": "kl:0.001", "seed": 7, "executed": 3}, {},
        ]  # fmt: skip


def test_an_execution_rule_is_told_once_to_every_connection():
    answer = in_turn(zeros, zeros, Vanish(), zeros, zeros)
    with policy_server(answer) as server, PolicyClient(server.address) as client:
        client.infer(OBSERVATION, execution="binary:4,2,8")
        client.infer(OBSERVATION)
        with pytest.raises(ConnectionLostError):
            client.infer(OBSERVATION)
        client.infer(OBSERVATION)
        client.infer(OBSERVATION, execution="fixed:3")
        rule = {"execution": "binary:4,2,8"}
        assert server.options == [rule, {}, {}, rule, {"execution": "fixed:3"}]


def test_a_rule_that_the_server_refuses_is_not_sent_again():
    with policy_server(in_turn(zeros, Close("no such rule"), zeros)) as server:
        with PolicyClient(server.address) as client:
            client.infer(OBSERVATION, execution="fixed:3")
            with pytest.raises(ServerError, match="no such rule"):
                client.infer(OBSERVATION, execution="bogus")
            client.infer(OBSERVATION)
            client.infer(OBSERVATION)
        good = {"execution": "fixed:3"}
        assert server.options == [good, {"execution": "bogus"}, good, {}]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, list])
def test_actions_that_are_not_finite_are_refused_and_the_connection_goes_on(bad, kind):
    actions = np.zeros((4, 2))
    actions[2, 1] = bad
    sent = actions.tolist() if kind is list else actions.astype(kind)
    with policy_server(in_turn({"actions": sent, "depth": 3}, zeros)) as server:
        with PolicyClient(server.address) as client:
            client.reset()
            with pytest.raises(NonFiniteError, match=rf"not finite, such as {bad} at \[2, 1\]") as caught:
                client.infer(OBSERVATION, execution="fixed:3")
            assert caught.value.reply["depth"] == 3
            assert client.infer(OBSERVATION)["actions"].shape == (4, 2)
            assert client.connections == 1
        assert server.options == [{"execution": "fixed:3", "reset": True}, {}]


def test_a_reset_travels_with_the_next_query():
    with policy_server() as server, PolicyClient(server.address) as client:
        for _ in range(2):
            client.infer(OBSERVATION)
        client.reset()
        for _ in range(2):
            client.infer(OBSERVATION)
        assert server.options == [{}, {}, {"reset": True}, {}]


def test_a_server_without_options_works_and_is_sent_none():
    with policy_server(metadata={}) as server, PolicyClient(server.address) as client:
        assert client.options == frozenset()
        client.reset()
        client.infer(OBSERVATION)
        assert server.options == [{}]
        with pytest.raises(UnsupportedError, match="seed"):
            client.infer(OBSERVATION, seed=3)
        assert len(server.messages) == 1
        client.infer(OBSERVATION)  # the connection is still good


def test_options_hidden_in_the_observation_are_refused():
    client = PolicyClient("127.0.0.1")
    with pytest.raises(UnsupportedError, match="arguments"):
        client.infer({**OBSERVATION, "rdvla": {"seed": 1}})


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        (Close("the camera 'wrist' is missing"), ServerError, "wrist"),
        (Close("8 queries wait", code=1013), BusyError, "8 queries"),
        (Close(code=1013), BusyError, "again later"),
        (Close(code=1009, reason="over size"), WireError, "too large"),
        (Close(code=1011), ConnectionLostError, "lost"),
        (Vanish(), ConnectionLostError, "may have been answered"),
        (b"\xc1", WireError, "read"),
        (b"\x93\x01\x02\x03", WireError, "list"),
    ],
)
def test_a_query_that_fails_is_never_repeated_and_the_next_one_connects_anew(failure, error, words):
    with policy_server(in_turn(failure, zeros)) as server, PolicyClient(server.address) as client:
        with pytest.raises(error, match=words):
            client.infer(OBSERVATION)
        assert len(server.messages) == 1
        assert client.infer(OBSERVATION)["actions"].shape == (4, 2)
        assert client.connections == 2


def test_a_late_reply_is_not_taken_for_the_next_one():
    release = threading.Event()

    def late(message):
        assert release.wait(20)
        return {"actions": np.full((1, 1), 9.0)}

    with policy_server(in_turn(late, zeros)) as server:
        with (
            PolicyClient(server.address, patience=Patience(reply_s=0.05)) as client,
            pytest.raises(ReplyTimeoutError, match="did not reply"),
        ):
            client.infer(OBSERVATION)
        with PolicyClient(server.address) as client:
            release.set()
            assert client.infer(OBSERVATION)["actions"].max() == 0


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again():
    port = free_port()
    with PolicyClient("127.0.0.1", port=port) as client:
        with policy_server(port=port):
            client.infer(OBSERVATION)
        eventually(lambda: not client.connected)
        with policy_server(port=port):
            client.infer(OBSERVATION)  # nothing was sent into the old connection, so nothing is lost
        assert client.connections == 2


def test_a_server_that_comes_up_later_is_found():
    port = free_port()
    found: list[object] = []
    patience = Patience(reconnect_s=60, backoff=Backoff(first_s=0.01, longest_s=0.05))
    with PolicyClient("127.0.0.1", port=port, patience=patience) as client:
        thread = threading.Thread(target=lambda: found.append(client.infer(OBSERVATION)), daemon=True)
        thread.start()
        with policy_server(port=port):
            thread.join(timeout=30)
    assert len(found) == 1


def test_an_address_where_nobody_listens_is_named():
    client = PolicyClient("127.0.0.1", port=free_port(), patience=QUICK)
    with pytest.raises(ConnectionLostError, match=r"ws://127\.0\.0\.1:\d+ does not answer"):
        client.connect()


def test_whoever_speaks_another_protocol_is_named():
    with (
        policy_server(greet=lambda connection: connection.send("hello")) as server,
        PolicyClient(server.address, patience=QUICK) as client,
        pytest.raises(ClientError, match="hello"),
    ):
        client.connect()
    with (
        policy_server(greet=lambda connection: connection.recv(timeout=20)) as server,
        PolicyClient(server.address, patience=Patience(open_s=0.3, reconnect_s=0)) as client,
        pytest.raises(WireError, match="no metadata"),
    ):
        client.connect()


def test_a_reply_beyond_the_limits_is_refused():
    big = {"actions": np.zeros((100, 100))}
    with (
        policy_server(in_turn(big, zeros)) as server,
        PolicyClient(server.address, limits=Limits(max_bytes=10_000)) as client,
        pytest.raises(WireError, match="too large"),
    ):
        client.infer(OBSERVATION)


def test_a_client_that_is_closed_ends_what_waits_and_stays_closed():
    asked, release = threading.Event(), threading.Event()

    def never(message):
        asked.set()
        release.wait(20)
        return zeros(message)

    failures: list[Exception] = []
    with policy_server(never) as server:
        client = PolicyClient(server.address)

        def ask():
            try:
                client.infer(OBSERVATION)
            except ClientError as error:
                failures.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert asked.wait(20)
        client.close()
        thread.join(timeout=20)
        release.set()
        assert len(failures) == 1
        with pytest.raises(ClientError, match="closed"):
            client.infer(OBSERVATION)


def test_delays_grow_up_to_a_bound_and_differ():
    delays = Backoff(first_s=1, longest_s=4, jitter=0.5).delays()
    taken = [next(delays) for _ in range(6)]
    for delay, nominal in zip(taken, (1, 2, 4, 4, 4, 4), strict=True):
        assert nominal / 2 <= delay <= nominal
    assert len(set(taken)) == 6
    with pytest.raises(ValueError, match="backoff"):
        Backoff(first_s=3, longest_s=1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files of a certificate for this machine, signed by itself, and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem "
        "-addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=60)
    return folder / "cert.pem", folder / "key.pem"


def test_a_certificate_of_ones_own_is_trusted_only_if_it_is_given(certificate):
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with policy_server(ssl=context) as server:
        address = f"wss://{server.address}"
        with PolicyClient(address, tls=ssl.create_default_context(cafile=str(cert))) as client:
            assert client.infer(OBSERVATION)["actions"].shape == (4, 2)
        client = PolicyClient(address)
        with pytest.raises(RefusedError, match="certificate is not trusted"):
            client.connect()
        plain = PolicyClient(server.address, patience=QUICK)
        with pytest.raises(ClientError, match="does not answer"):
            plain.connect()
