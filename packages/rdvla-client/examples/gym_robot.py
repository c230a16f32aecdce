"""Drives a Gymnasium environment through a policy server: `rdvla serve metaworld` in another shell."""

import sys

import numpy as np

from rdvla import simulation
from rdvla_client import PolicyClient, RobotClient

address = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8000"
env = simulation.make("metaworld", "drawer-close-v3")  # any gymnasium.Env; this one has cameras

# A simulator can wait for every chunk, however long. A robot cannot: without these two, `act` never waits,
# and a chunk that comes too late is thrown away.
with RobotClient(PolicyClient(address), hold=np.zeros(4), prefetch=False, max_age_s=np.inf) as robot:
    seen, info = env.reset(seed=1_000_000)
    ended = False
    while not ended:
        observation = {"images": env.render_cameras(), "state": seen["state"], "prompt": env.instruction}
        seen, _, terminated, truncated, info = env.step(robot.act(observation))
        ended = terminated or truncated or info["success"]
print("solved" if info["success"] else "not solved", robot.counts)
