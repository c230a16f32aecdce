"""Connects a robot to a policy server: numpy, websockets and msgpack, no torch. Imports nothing of rdvla."""
