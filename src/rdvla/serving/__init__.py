"""The policy server: openpi's protocol, many robots at once, deadlines."""
