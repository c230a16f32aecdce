"""The real vla-eval runs episodes with a policy of our server, in the Python that a variable names."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.peers import LIMIT, ROOT, python_of, reach_server, run_tool, tool_environment

SCRIPT = ROOT / "packages" / "rdvla-peers" / "vla_eval_server.py"
CONFIG = ROOT / "packages" / "rdvla-peers" / "vla_eval.yaml"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        assert process.poll() is None, "the model server has ended"
        assert time.monotonic() < deadline
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return


def test_the_configuration_names_a_script_of_the_checkout_and_our_default_port():
    config = yaml.safe_load(CONFIG.read_text())
    assert ROOT / config["script"] == SCRIPT
    assert config["args"]["server"] == "ws://127.0.0.1:8000"
    assert config["args"]["host"] == "127.0.0.1"


@pytest.mark.slow
def test_vla_eval_runs_episodes_with_a_served_policy(tmp_path: Path):
    python = python_of("RDVLA_VLA_EVAL_PYTHON")
    port = free_port()
    with reach_server() as (address, policy):
        command = [python, SCRIPT, "--port", port, "--host", "127.0.0.1", "--args.server", address]
        command += ["--args.cameras", json.dumps({"camera": "agentview"})]
        process = subprocess.Popen([str(word) for word in command], cwd=tmp_path, env=tool_environment())
        try:
            wait_until_open(port, process)
            evaluation = {
                "server": {"url": f"ws://127.0.0.1:{port}"},
                "output_dir": str(tmp_path / "results"),
                "benchmarks": [
                    {
                        "benchmark": "reach_benchmark:ReachBenchmark",
                        "episodes_per_task": 4,
                        "mode": "sync",
                    }
                ],
            }
            (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump(evaluation))
            main = "from vla_eval.cli.main import main; main()"
            run_tool([python, "-c", main, "run", "--no-docker", "--config", "evaluation.yaml"], cwd=tmp_path)
        finally:
            process.terminate()
            process.wait(timeout=30)
    (results,) = (tmp_path / "results").glob("*aggregate.json")
    assert json.loads(results.read_text())["mean_success"] == 1.0
    asked = [query.observation for query in policy.asked[1:]]  # after the query that warms it up
    assert {observation.instruction for observation in asked} == {"reach the cube"}
    assert {int(np.max(observation.images["camera"])) for observation in asked} == {77}
    starts = [np.allclose(observation.state[:2], 0.1) for observation in asked]
    assert sum(starts) == 4  # of one query in three steps, each episode's first
