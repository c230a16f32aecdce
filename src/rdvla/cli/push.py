"""`rdvla push`."""

from __future__ import annotations

from pathlib import Path


def run(
    policy: str,
    repository: str,
    *,
    results: Path | None = None,
    private: bool = False,
    branch: str | None = None,
) -> None:
    """Publish a policy on the hub, with a card that shows configuration, data, results and licences.

    Args:
        policy: folder of a policy, or run directory of `rdvla train`.
        repository: where to publish it, user/name.
        results: results.json of `rdvla eval` (default: the one in the folder, if any).
        private: visible to its owner only.
        branch: branch of the repository (default: main).
    """
    from rdvla.policy import RESULTS, RDVLAPolicy
    from rdvla.policy.records import read_results

    measured = None if results is None else read_results(results)
    loaded = RDVLAPolicy.from_pretrained(policy)
    if measured is not None:
        loaded.records[RESULTS] = measured
    address = loaded.push_to_hub(repository, private=private or None, branch=branch)
    print(f"published: {address}")
    print(f'next: RDVLAPolicy.from_pretrained("{repository}")')
