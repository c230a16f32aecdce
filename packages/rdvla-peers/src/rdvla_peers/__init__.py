"""Policies that `rdvla serve` serves, in other tools for evaluation: vla-eval and inspect-robots."""
