"""`rdvla push`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> None:
    """Publish a policy on the hub, with a card that shows configuration, data, results and licences."""
    parser = argparse.ArgumentParser(prog="rdvla push", description=run.__doc__)
    parser.add_argument("policy", help="folder of a policy")
    parser.add_argument("repository", help="where to publish it, user/name")
    parser.add_argument(
        "--results", type=Path, help="results.json of `rdvla eval` (default: the one in the folder, if any)"
    )
    parser.add_argument("--private", action="store_true", help="visible to its owner only")
    parser.add_argument("--branch", help="of the repository (default: main)")
    options = parser.parse_args(argv)
    from rdvla.files import read_json
    from rdvla.policy import RESULTS, RDVLAPolicy

    policy = RDVLAPolicy.from_pretrained(options.policy)
    if options.results is not None:
        policy.records[RESULTS] = read_json(options.results)
    address = policy.push_to_hub(options.repository, private=options.private or None, branch=options.branch)
    print(f"published: {address}")
