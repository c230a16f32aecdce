"""Starting and stopping the server, and what is wrong before a port is open."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("openpi_client")

import websockets.sync.client as websocket
from openpi_client.msgpack_numpy import packb, unpackb
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed

from rdvla.config import load_config
from rdvla.errors import ConfigError, RDVLAError
from rdvla.serving import Endpoint, PolicyServer, ServeConfig
from rdvla.serving.inference import Inference
from rdvla.serving.replicas import ThreadReplica
from tests.support.served_echo import EchoPolicy
from tests.support.serving import (
    DoublePolicy,
    make_facts,
    make_message,
    open_server,
    running_server,
    wait_until,
)
from tests.support.serving_doubles import make_answer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"port": 70_000}, "port must be from 0 to 65535"),
        ({"connections": 0}, "connections must be at least 1"),
        ({"idle_seconds": 0.0}, "idle_seconds must be above 0"),
        ({"grace_seconds": -1.0}, "grace_seconds must be a number from 0 on"),
        ({"message_mb": float("inf")}, "message_mb must be a number"),
        ({"depth_limit": 100_000}, "depth_limit must be at most"),
        ({"stop": "sometimes"}, "unknown stop rule"),
        ({"stop": "8@later"}, "unknown start"),
        ({"execution": "sometimes"}, "unknown execution rule"),
        ({"policy": ""}, "policy is empty"),
        ({"policies": {"a/b": "x"}}, "policies names one 'a/b'"),
        ({"policies": {"metrics": "x"}}, "another page of the server"),
        ({"policies": {"mine": "x"}, "policy": "runs/mine/policy"}, "two policies are called 'mine'"),
    ],
)
def test_a_wrong_configuration_is_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ServeConfig(**{"policy": "x"} | options)


def test_the_command_line_reads_mappings_and_policies():
    config = load_config(
        ServeConfig,
        [
            "--policy=runs/mine/policy", "--policies={pick: there}", "--layout=libero",
            "--mapping.images={front: observation/image}", "--mapping.state=[a, b]", "--mapping.resize=true",
        ],
    )  # fmt: skip
    assert dict(config.sources) == {"mine": "runs/mine/policy", "pick": "there"}
    assert config.mapping.images == {"front": "observation/image"}
    assert (config.mapping.state, config.mapping.resize) == (("a", "b"), True)


def test_a_port_in_use_is_told_before_a_policy_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at port {port} of 127.0.0.1: .*--port"):
            PolicyServer(ServeConfig(policy="no such policy", port=port))
    with pytest.raises(ConfigError, match=r"host 'no\.such\.host\.invalid' is no address"):
        PolicyServer(ServeConfig(policy="x", port=0, host="no.such.host.invalid"), endpoints=[])


def test_a_policy_that_does_not_answer_opens_no_port():
    class Broken(DoublePolicy):
        async def ask(self, query):
            raise RDVLAError("its weights are missing")

    sentence = "policy 'double' does not answer: its weights are missing"
    with pytest.raises(RDVLAError, match=sentence), running_server(Broken()):
        pass


def test_a_rule_deeper_than_the_limit_is_refused_at_the_start():
    double = DoublePolicy(make_facts(stop="fixed:300"))
    with pytest.raises(ConfigError, match="runs up to 300 iterations, depth_limit is 256"):
        Endpoint.of(double, double, ServeConfig(policy="x"))
    double = DoublePolicy()
    with pytest.raises(ConfigError, match="runs up to 6 actions, but a chunk has 4"):
        Endpoint.of(double, double, ServeConfig(policy="x", execution="6"))


def test_stopping_closes_idle_clients_and_the_policies():
    double = DoublePolicy()
    with open_server(double) as server:
        address = server.address
        raw = websocket.connect(address).__enter__()
        raw.recv(timeout=20)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            raw.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server stops")
    assert double.closed
    with pytest.raises(OSError):
        websocket.connect(address, open_timeout=5).__enter__()


def test_a_running_query_is_answered_before_the_server_stops():
    double = DoublePolicy()
    with open_server(double, grace_seconds=60.0) as server:
        double.seconds = 0.5
        raw = websocket.connect(server.address, compression=None).__enter__()
        raw.recv(timeout=20)
        raw.send(packb(make_message()))
        assert wait_until(lambda: len(double.asked) == 2)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert unpackb(raw.recv(timeout=20))["depth"] == 4
        with pytest.raises(ConnectionClosed) as closed:
            raw.recv(timeout=20)
        stopping.join(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


def test_a_query_that_takes_longer_than_the_grace_is_cut_off():
    double = DoublePolicy()
    with open_server(double, grace_seconds=0.1) as server:
        double.seconds = 3600.0
        raw = websocket.connect(server.address, compression=None).__enter__()
        raw.recv(timeout=20)
        raw.send(packb(make_message()))
        assert wait_until(lambda: len(double.asked) == 2)
        server.stop()
        with pytest.raises(ConnectionClosed):
            raw.recv(timeout=20)
    assert double.closed


def test_health_says_whether_every_policy_has_a_replica_left():
    doubles = [DoublePolicy(make_facts("one")), DoublePolicy(make_facts("two"))]
    with open_server(doubles) as server:
        page = f"http://127.0.0.1:{server.port}/healthz"
        with urllib.request.urlopen(page, timeout=20) as answer:
            assert (answer.status, answer.read()) == (200, b"OK\n")
        doubles[1].is_alive = False
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(page, timeout=20)
        assert refused.value.code == 503
        assert b"runs no more" in refused.value.read()


def test_every_policy_is_closed_whatever_becomes_of_the_others():
    class Stuck(DoublePolicy):
        async def close(self):
            raise OSError("it does not end")

    last = DoublePolicy(make_facts("last"))
    with open_server([Stuck(make_facts("first")), last]):
        pass
    assert last.closed


def test_stopping_a_server_that_never_ran_closes_its_policies():
    double, config = DoublePolicy(), ServeConfig(policy="double", port=0)
    server = PolicyServer(config, endpoints=[Endpoint.of(double, double, config)])
    server.stop()
    assert double.closed


def test_a_server_whose_policy_hangs_ends_all_the_same():
    class Hanging(EchoPolicy):
        facts = make_facts()

        def predict(self, queries):
            if queries[0].deadline is not None:
                asked.set()
                threading.Event().wait()
            return [make_answer(query, batch_size=len(queries)) for query in queries]

    asked, config = threading.Event(), ServeConfig(policy="double", port=0, grace_seconds=0.1, max_batch=2)
    policy = Hanging()
    inference = Inference([ThreadReplica(policy)], grace_seconds=0.1)
    server = PolicyServer(config, endpoints=[Endpoint.of(DoublePolicy(), inference, config)])
    serving = threading.Thread(target=lambda: asyncio.run(server.run(opened)), daemon=True)
    opened = threading.Event()
    serving.start()
    assert opened.wait(60)
    with websocket.connect(server.address) as raw:
        raw.recv(timeout=20)
        raw.send(packb(make_message() | {"rdvla": {"deadline_ms": 1e6}}))
        assert asked.wait(60)
        server.stop()
        serving.join(60)
    assert not serving.is_alive()


@pytest.mark.slow
def test_a_failed_start_leaves_no_processes():
    before = set(multiprocessing.active_children())
    config = ServeConfig(policy="metaworld", policies={"more": "no/such/folder"}, port=0, replicas=2)
    with pytest.raises(RDVLAError, match="no/such/folder"):
        PolicyServer(config)
    assert set(multiprocessing.active_children()) <= before


def serve(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rdvla.cli", "serve", *words],
        cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal_and_ends_well(number):
    with serve("metaworld", "--port=0", "--log_format=json") as running:
        try:
            assert running.stdout is not None
            assert running.stderr is not None
            served = running.stdout.readline()
            assert served.startswith("serving metaworld (torch) at ws://127.0.0.1:")
            assert "layout native: images/front, images/side, images/wrist, state, prompt" in served
            how = running.stdout.readline()
            assert how.startswith("on the robot: ")
            address = how.split('"')[1]
            with websocket.connect(address) as raw:
                assert unpackb(raw.recv(timeout=60))["cameras"] == ["front", "side", "wrist"]
                running.send_signal(number)
                with pytest.raises(ConnectionClosed):
                    raw.recv(timeout=60)
            output, log = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0, log
    events = [json.loads(line) for line in log.splitlines()]
    assert [event["event"] for event in events] == [
        "ready", "open", "connected", "stopping", "disconnected", "stopped"
    ]  # fmt: skip
    assert output == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no/such/folder"], "no/such/folder"),
        (["metaworld", "--layout=libero"], "which of observation/image"),
        (["metaworld", "--tls_key=x"], "TLS needs both"),
        (["metaworld", "--prot=1"], "Did you mean 'port'?"),
    ],
)
def test_the_command_says_what_is_wrong(words, sentence):
    with serve(*words, "--port=0") as running:
        output, told = running.communicate(timeout=120)
    assert running.returncode == 2
    assert told.startswith("rdvla: error: ")
    assert sentence in told
    assert output == ""


def test_an_open_port_without_a_key_is_warned_of(monkeypatch):
    double = DoublePolicy()
    config = ServeConfig(policy="double", host="0.0.0.0", port=0)
    endpoint = Endpoint.of(double, double, config)
    with PolicyServer(config, endpoints=[endpoint]) as server:
        assert any("whoever reaches this port" in line for line in server.greeting())
        assert f"at ws://{socket.gethostname()}:{server.port}, layout native" in server.greeting()[0]
        assert server.address == f"ws://127.0.0.1:{server.port}"
    monkeypatch.setenv("RDVLA_API_KEY", "correct-horse")
    with PolicyServer(config, endpoints=[endpoint]) as server:
        lines = server.greeting()
        assert any("the key crosses the network unencrypted" in line for line in lines)
        assert "correct-horse" not in "".join(lines)


def test_openpis_client_connects_by_host_and_port_too():
    with open_server() as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port)
        assert client.get_server_metadata()["policy"] == "double"
