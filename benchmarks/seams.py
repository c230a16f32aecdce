"""Jerk where one chunk follows another, with and without prefetch and blending, in real time.

    python -m benchmarks.seams --output runs/bench/seams.json
    python -m benchmarks.seams --episodes 4 --output runs/bench/seams_metaworld.json

Without `--episodes`, a server of its own plans smooth joint positions. Its chunks differ a little from query
to query, as a learned policy's do, and its replies take as long as a large policy's. With it, the shipped
policy drives MetaWorld through `rdvla serve`. Both loops keep wall-clock time, so a late reply is late.

Jerk is the third difference of the commanded positions. "At seams" are the differences that reach over a step
with which a new chunk takes over, or with which a hold begins or ends; "elsewhere" are all others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from benchmarks.harness import hardware
from rdvla.files import write_json
from rdvla_client import Blend, PolicyClient, RobotClient
from rdvla_client.wire import pack, unpack

JOINTS, CHUNK = 6, 16
BIAS, DRIFT = 0.02, 0.002  # rad, rad per step: by how much chunks for the same steps differ
JITTER = 0.25  # of the latency, standard deviation
TASKS = ("drawer-close-v3", "window-open-v3", "reach-v3")
GRIPPER = 3  # MetaWorld's fourth number
START_SECONDS = 300  # that a server may take to start

# Name -> arguments of `RobotClient`. The first waits for each chunk while the robot holds.
WAYS: dict[str, dict[str, Any]] = {
    "ask when the chunk has ended": {"prefetch": False},
    "prefetch": {},
    "prefetch, linear blend of 4": {"blend": Blend(4, curve="linear")},
    "prefetch, smooth blend of 4": {"blend": Blend(4)},
    "prefetch, smooth blend of 8": {"blend": Blend(8)},
    "prefetch, smooth blend of 4, overrun of 4": {"blend": Blend(4), "overrun": 4},
    "until_next": {"execution": "until_next"},
    "until_next, smooth blend of 4": {"execution": "until_next", "blend": Blend(4)},
}


@dataclass
class Record:
    """The action of every control step of a robot."""

    positions: list[NDArray[np.float32]] = field(default_factory=list)  # commanded, (A,) each
    seams: list[bool] = field(default_factory=list)  # a new chunk took over
    held: list[bool] = field(default_factory=list)

    def add(self, position: NDArray[np.float32], robot: RobotClient) -> None:
        """Note a step that `robot` has just decided."""
        step = robot.last_step
        assert step is not None
        self.positions.append(position)
        self.seams.append(step.seam)
        self.held.append(step.held)

    def jerk(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return third differences (T-3, A), and which of them reach over a seam, (T-3,)."""
        held = np.array(self.held)
        edge = np.array(self.seams)
        edge[1:] |= held[1:] != held[:-1]
        third = np.diff(np.array(self.positions, np.float64), n=3, axis=0)
        return third, edge[1:-2] | edge[2:-1] | edge[3:]


def summarise(records: Sequence[Record], *, unit: float) -> dict[str, float]:
    """Return root mean square and largest jerk in multiples of `unit`, and the share of held steps."""
    pairs = [record.jerk() for record in records if len(record.positions) > 3]
    third = np.concatenate([each for each, _ in pairs])
    near = np.concatenate([each for _, each in pairs])

    def size(values: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean(values**2))) / unit if values.size else 0.0

    return {
        "at_seams": size(third[near]),
        "elsewhere": size(third[~near]),
        "everywhere": size(third),
        "largest": float(np.abs(third).max()) / unit,
        "held": float(np.mean(np.concatenate([record.held for record in records]))),
    }


class Path6:
    """A smooth path of six joints: the positions that the synthetic policy aims at, by control step."""

    def __init__(self, hz: float, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.hz = hz
        self.frequencies = draw.uniform(0.1, 0.6, (3, JOINTS))  # Hz
        self.phases = draw.uniform(0, 2 * np.pi, (3, JOINTS))

    def __call__(self, steps: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return positions in rad, (n, 6), for n steps."""
        angles = 2 * np.pi * self.frequencies * (steps / self.hz)[:, None, None] + self.phases
        return (0.2 * np.sin(angles).sum(axis=1)).astype(np.float32)

    def jerk(self, steps: int) -> float:
        """Return the root mean square of the third differences of the path itself."""
        return float(np.sqrt(np.mean(np.diff(self(np.arange(float(steps))).astype(float), n=3, axis=0) ** 2)))


@contextmanager
def synthetic_server(path: Path6, *, latency_s: float, seed: int = 0) -> Iterator[str]:
    """Serve chunks along a path, each with an error of its own, and yield the address."""
    draw = np.random.default_rng(seed)

    def answer(message: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(max(0.2 * latency_s, draw.normal(latency_s, JITTER * latency_s)))
        ahead = np.arange(float(CHUNK))
        error = draw.normal(0, BIAS, JOINTS) + draw.normal(0, DRIFT, JOINTS) * ahead[:, None]
        return {"actions": path(message["step"] + ahead) + error.astype(np.float32)}

    def handle(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            connection.send(pack({}))
            for frame in connection:
                assert isinstance(frame, bytes)
                connection.send(pack(answer(unpack(frame))))

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(timeout=10)


def in_time(hz: float, step: Callable[[], bool], *, steps: int) -> None:
    """Call `step` at a fixed rate until it returns False, at most `steps` times."""
    begun = time.monotonic()
    for number in range(steps):
        time.sleep(max(0.0, begun + number / hz - time.monotonic()))
        if not step():
            return


def run_synthetic(address: str, way: Mapping[str, Any], *, hz: float, steps: int) -> Record:
    """Follow the synthetic policy; the robot goes where it is told."""
    record = Record()
    executed = 0
    with RobotClient(
        PolicyClient(address), **{"hold": "last", "execution": "fixed:8", "control_hz": hz, "wait_s": 0} | way
    ) as robot:

        def step() -> bool:
            nonlocal executed
            record.add(robot.act({"step": executed}), robot)
            executed += not record.held[-1]
            return True

        in_time(hz, step, steps=steps)
    return record


def synthetic_rows(*, hz: float, latency_s: float, steps: int) -> list[dict[str, Any]]:
    """Measure every way on the synthetic policy."""
    path = Path6(hz)
    rows = []
    for name, way in WAYS.items():
        with synthetic_server(path, latency_s=latency_s) as address:
            record = run_synthetic(address, way, hz=hz, steps=steps)
        rows.append({"way": name, **summarise([record], unit=path.jerk(steps))})
    return rows


@contextmanager
def policy_server(policy: str) -> Iterator[str]:
    """Run `rdvla serve` in a process of its own, and yield the address."""
    command = [sys.executable, "-m", "rdvla.cli", "serve", policy, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        patience = threading.Timer(START_SECONDS, process.kill)  # the line that never comes is then empty
        patience.start()
        greeting = process.stdout.readline()
        patience.cancel()
        if "ws://" not in greeting:
            process.kill()
            raise RuntimeError(f"rdvla serve {policy} did not start: {greeting!r}")
        try:
            yield "ws://" + greeting.partition("ws://")[2].split(",")[0].strip()
        finally:
            process.terminate()


def run_metaworld(
    address: str, way: Mapping[str, Any], *, task: str, seed: int, hz: float
) -> tuple[Record, bool]:
    """Play an episode in wall-clock time; return the hand's actions and whether the task was solved."""
    from rdvla import simulation

    env = simulation.make("metaworld", task)
    record, solved, position = Record(), False, np.zeros(GRIPPER, np.float32)
    blend = {"blend": Blend(way["blend"].steps, way["blend"].curve, (GRIPPER,))} if "blend" in way else {}
    arguments = {"hold": np.zeros(GRIPPER + 1), "control_hz": hz, "wait_s": 0, **way, **blend}
    with RobotClient(PolicyClient(address), **arguments) as robot:
        seen, _ = env.reset(seed=seed)

        def step() -> bool:
            nonlocal seen, solved, position
            observation = {"images": env.render_cameras(), "state": seen["state"], "prompt": env.instruction}
            action = robot.act(observation)
            position = position + action[:GRIPPER]  # MetaWorld's actions are changes of position
            record.add(position, robot)
            seen, _, terminated, truncated, info = env.step(action)
            solved = bool(info["success"])
            return not (solved or terminated or truncated)

        in_time(hz, step, steps=env.max_steps)
    return record, solved


def metaworld_rows(*, hz: float, episodes: int) -> list[dict[str, Any]]:
    """Measure every way on the shipped policy."""
    played: dict[str, list[tuple[Record, bool]]] = {name: [] for name in WAYS}
    with policy_server("metaworld") as address:
        for task in TASKS:
            for number in range(episodes):
                for name, way in WAYS.items():  # in turn, so a slow hour of the machine hits all ways
                    played[name].append(
                        run_metaworld(address, way, task=task, seed=1_000_000 + number, hz=hz)
                    )
    return [
        {
            "way": name,
            **summarise([record for record, _ in each], unit=1.0),
            "solved": sum(solved for _, solved in each),
            "of": len(each),
            "steps": float(np.mean([len(record.held) for record, _ in each])),
        }
        for name, each in played.items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format rows for a document."""
    solved = "solved" in rows[0]
    lines = [
        "| way | jerk at seams | elsewhere | everywhere | largest | held |"
        + (" solved | steps |" if solved else "")
    ]
    lines.append("|---|---|---|---|---|---|" + ("---|---|" if solved else ""))
    for row in rows:
        cells = [
            row["way"],
            *(f"{row[name]:.2f}" for name in ("at_seams", "elsewhere", "everywhere", "largest")),
        ]
        cells.append(f"{row['held']:.1%}")
        cells += [f"{row['solved']}/{row['of']}", f"{row['steps']:.0f}"] if solved else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table and write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seams", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/seams.json"))
    parser.add_argument("--episodes", type=int, default=0, help="of each MetaWorld task; 0: synthetic policy")
    parser.add_argument("--hz", type=float, default=20.0, help="control rate")
    parser.add_argument("--latency-ms", type=float, default=120.0, help="of the synthetic policy")
    parser.add_argument("--steps", type=int, default=600, help="with the synthetic policy")
    options = parser.parse_args(argv)
    if options.episodes:
        rows = metaworld_rows(hz=options.hz, episodes=options.episodes)
    else:
        rows = synthetic_rows(hz=options.hz, latency_s=options.latency_ms / 1000, steps=options.steps)
    print("\n".join(table(rows)))
    arguments = {name: value for name, value in vars(options).items() if name != "output"}
    write_json(options.output, {"schema": 1, "hardware": hardware(), "options": arguments, "rows": rows})
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
