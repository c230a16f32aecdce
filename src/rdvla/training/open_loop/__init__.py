"""Open-loop evaluation: a policy's actions next to those that were demonstrated."""
