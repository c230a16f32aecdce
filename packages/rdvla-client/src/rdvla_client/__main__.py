"""`python -m rdvla_client ADDRESS`: is the server there, what does it serve, and how long do replies take?"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdvla_client.client import PolicyClient
from rdvla_client.errors import ClientError
from rdvla_client.transport import Patience

KEY_VARIABLE = "RDVLA_API_KEY"  # environment variable that holds the key
_PINGS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Check a policy server from the robot's side; 0 if it answers."""
    parser = argparse.ArgumentParser(prog="python -m rdvla_client", description=__doc__)
    parser.add_argument(
        "address", help="ws://host:port, wss://... or host:port; /NAME behind it chooses a policy"
    )
    parser.add_argument("--queries", type=int, default=20, help="how many to measure (default: 20); 0: none")
    parser.epilog = f"The environment variable {KEY_VARIABLE} holds the server's key, if it asks for one."
    arguments = parser.parse_args(argv)
    try:
        with PolicyClient(
            arguments.address, api_key=os.environ.get(KEY_VARIABLE), patience=Patience(reconnect_s=0)
        ) as client:
            report(client, queries=arguments.queries)
    except (ClientError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def report(client: PolicyClient, *, queries: int) -> None:
    """Print what a server says about itself, and how long it takes to answer."""
    for name, value in client.metadata.items():
        print(f"{name:>14}  {value}")
    print(f"{'ping':>14}  {statistics.median(client.ping_ms() for _ in range(_PINGS)):.1f} ms")
    observation = random_observation(client.metadata)
    if observation is None:
        print(f"{_untold(client.metadata)}, so no reply was measured.")
        return
    if queries < 1:
        return
    first, *rest = (_query_ms(client, observation) for _ in range(queries + 1))
    rest.sort()
    slowest = rest[math.ceil(0.95 * len(rest)) - 1]
    print(f"{'reply':>14}  {statistics.median(rest):.1f} ms, 95% within {slowest:.1f}, the first {first:.1f}")
    rate = client.metadata.get("control_hz")
    if rate:
        print(f"{'':>14}  {slowest * rate / 1000:.1f} control steps at {rate:g} Hz")


def random_observation(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return noise that a server of rdvla takes for an observation; None if its metadata says too little."""
    keys = metadata.get("keys")
    if not isinstance(keys, dict) or len(keys.get("state", ())) > 1:
        return None
    draw = np.random.default_rng(0)
    observation: dict[str, Any] = {keys["instruction"]: "do nothing"}
    for camera, key in keys["images"].items():
        observation[key] = draw.integers(0, 256, (*metadata["image_sizes"][camera], 3), np.uint8)
    for key in keys["state"]:
        observation[key] = np.zeros(metadata["state_dim"], np.float32)
    return observation


def _untold(metadata: Mapping[str, Any]) -> str:
    """Say what the metadata lacks for an observation."""
    keys = metadata.get("keys")
    if not isinstance(keys, dict):
        return "The server does not say what an observation is"
    names = ", ".join(map(str, keys["state"]))
    return f"The server takes the state as {names} and does not say how many numbers each has"


def _query_ms(client: PolicyClient, observation: Mapping[str, Any]) -> float:
    begun = time.monotonic()
    client.infer(observation)
    return 1000 * (time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main())
