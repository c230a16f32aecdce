"""The server as openpi's own client sees it."""

from __future__ import annotations

import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("openpi_client")

import websockets.sync.client as websocket
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.msgpack_numpy import packb, unpackb
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.serving import CHUNK, DoublePolicy, make_facts, make_message, open_server, running_server


def test_the_first_frame_describes_the_policy():
    with running_server() as address:
        told = WebsocketClientPolicy(address).get_server_metadata()
    assert told["protocol"] == "openpi"
    assert told["server"].startswith("rdvla ")
    assert (told["policy"], told["policies"], told["layout"]) == ("double", ["double"], "native")
    assert told["cameras"] == ["front", "wrist"]
    assert told["image_sizes"] == {"front": [8, 8], "wrist": [8, 8]}
    assert (told["state_dim"], told["action_dim"], told["chunk_size"]) == (2, 3, 4)
    assert (told["control_hz"], told["stop"], told["execution"]) == (10.0, "fixed:4", "fixed:2")
    assert "deadline_ms" in told["options"]


def test_a_policy_without_a_known_frequency_tells_none():
    from rdvla.policy.config import RobotConfig

    with running_server(DoublePolicy(make_facts(robot=RobotConfig()))) as address:
        assert "control_hz" not in WebsocketClientPolicy(address).get_server_metadata()


def test_a_client_gets_a_chunk_and_what_was_measured():
    with running_server() as address:
        client = WebsocketClientPolicy(address)
        first, second = (client.infer(make_message()) for _ in range(2))
    np.testing.assert_array_equal(first["actions"], np.repeat([[3.0], [4.0], [5.0], [6.0]], 3, axis=1))
    assert first["actions"].dtype == np.float32
    assert (first["depth"], first["max_depth"], first["converged"]) == (4, 4, True)
    assert (first["ended_by"], first["execute_steps"], first["batch_size"]) == ("converged", 2, 1)
    assert (first["uncertainty"], first["help_requested"], first["phase"]) == (1.0, False, "autonomous")
    assert "band" not in first
    assert first["policy_timing"] == {"infer_ms": 1.5}
    assert set(first["server_timing"]) == {"infer_ms"}
    assert set(second["server_timing"]) == {"infer_ms", "prev_total_ms"}


def test_openpis_broker_takes_a_reply_apart_step_by_step():
    """It indexes every array of a reply, so there must be none but the chunk."""
    with running_server() as address:
        broker = ActionChunkBroker(WebsocketClientPolicy(address), CHUNK)
        steps = [broker.infer(make_message(state=(1.0, number)))["actions"] for number in range(CHUNK + 1)]
    # The chunk of the first observation, then the first action of a new one.
    np.testing.assert_array_equal([step[0] for step in steps], [1.0, 2.0, 3.0, 4.0, 5.0])


def test_the_bytes_on_the_wire_are_openpis():
    with running_server() as address, websocket.connect(address, compression=None) as raw:
        raw.recv(timeout=20)
        raw.send(packb(make_message()))
        data = raw.recv(timeout=20)
    assert isinstance(data, bytes)
    told = unpackb(data)
    # As openpi's server would pack it: maps of arrays have binary keys, in this order.
    assert packb(told) == data
    head = b"\xa7actions\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x30"
    assert head in data


def test_an_error_is_a_sentence_and_ends_the_connection_alone():
    with running_server() as address:
        client, other = WebsocketClientPolicy(address), WebsocketClientPolicy(address)
        with pytest.raises(RuntimeError, match=r"lacks 'images/wrist'.*Did you mean 'images/wrst'") as raised:
            message = make_message()
            message["images/wrst"] = message.pop("images/wrist")
            client.infer(message)
        assert "Traceback" not in str(raised.value)
        with pytest.raises(ConnectionClosed) as closed:
            client.infer(make_message())
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert other.infer(make_message())["depth"] == 4


def test_a_fault_of_the_server_is_told_without_its_details():
    double = DoublePolicy(failure=ZeroDivisionError("a secret path"))
    with running_server(double) as address:
        with pytest.raises(RuntimeError, match=r"the server failed.*robot-0") as raised:
            WebsocketClientPolicy(address).infer(make_message())
        assert "secret" not in str(raised.value)
        assert "Traceback" not in str(raised.value)


def test_a_busy_policy_says_so():
    from rdvla.serving import BusyError

    with running_server(DoublePolicy(failure=BusyError("64 queries wait already"))) as address:
        client = WebsocketClientPolicy(address)
        with pytest.raises(RuntimeError, match="64 queries wait already"):
            client.infer(make_message())
        with pytest.raises(ConnectionClosed) as closed:
            client.infer(make_message())
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


def test_health_and_unknown_pages():
    with running_server() as address:
        page = address.replace("ws", "http", 1)
        with urllib.request.urlopen(f"{page}/healthz", timeout=20) as answer:
            assert (answer.status, answer.read()) == (200, b"OK\n")
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"{page}/healht", timeout=20)
        with missing.value:  # unread, it would keep its connection open
            assert missing.value.code == 404
            assert b"there is no policy at '/healht'" in missing.value.read()


def test_several_policies_each_have_a_path():
    doubles = [DoublePolicy(make_facts(name)) for name in ("first", "second")]
    with running_server(doubles) as address:
        for path, name in (("", "first"), ("/", "first"), ("/first", "first"), ("/second", "second")):
            told = WebsocketClientPolicy(address + path).get_server_metadata()
            assert (told["policy"], told["policies"]) == (name, ["first", "second"])
        with pytest.raises(InvalidStatus) as refused, websocket.connect(f"{address}/secnd"):
            pass
    assert refused.value.response.status_code == 404
    assert b"Did you mean 'second'?" in refused.value.response.body


def test_messages_that_come_early_are_answered_in_order():
    with (
        running_server(DoublePolicy(seconds=0.02)) as address,
        websocket.connect(address, compression=None) as raw,
    ):
        raw.recv(timeout=20)
        for number in range(12):
            raw.send(packb(make_message(state=(0.0, number))))
        firsts = [unpackb(raw.recv(timeout=20))["actions"][0, 0] for _ in range(12)]
    assert firsts == list(range(12))


def test_the_metrics_page_counts():
    with open_server() as server:
        client = WebsocketClientPolicy(server.address)
        client.infer(make_message())
        client.infer(make_message(rdvla={"max_depth": 2}))
        page = server.address.replace("ws", "http", 1)
        with urllib.request.urlopen(f"{page}/metrics", timeout=20) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain")
    for line in (
        'rdvla_queries_total{ended_by="converged",policy="double"} 1.0',
        'rdvla_queries_total{ended_by="max_depth",policy="double"} 1.0',
        'rdvla_depth_sum{policy="double"} 6.0',
        'rdvla_batch_size_count{policy="double"} 2.0',
        'rdvla_connections{policy="double"} 1.0',
        'rdvla_open_queries{policy="double"} 0.0',
        'rdvla_query_seconds_count{part="total",policy="double"} 2.0',
    ):
        assert line in text.splitlines()
