"""`rdvla calibrate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rdvla.cli.options.dataset import add_dataset_options, camera_names


def run(argv: Sequence[str]) -> None:
    """Find stop rules on the latent state that keep the action change below delta, from demonstrations."""
    parser = argparse.ArgumentParser(
        prog="rdvla calibrate",
        description=f"{run.__doc__} Prints rules for `rdvla eval --rules` or the policy's `depth`, and what "
        "they did on episodes that they were not calibrated on.",
    )
    parser.add_argument("policy", help="folder or hub id of a policy")
    parser.add_argument("dataset", help="folder or hub id of a LeRobot dataset")
    parser.add_argument("--samples", type=int, default=1000, help="evenly spread over it (%(default)s)")
    parser.add_argument("--delta", type=float, default=1e-3, help="of the paper's rule (%(default)s)")
    parser.add_argument(
        "--risk",
        type=float,
        default=0.02,
        help="share of samples that may stop while the actions still change by delta (%(default)s)",
    )
    parser.add_argument("--max-depth", type=int, default=32, help="every sample stops there (%(default)s)")
    add_dataset_options(parser)
    parser.add_argument("--output", type=Path, help="JSON file to write as well")
    options = parser.parse_args(argv)
    from dataclasses import asdict

    from rdvla.files import write_json
    from rdvla.policy import RDVLAPolicy, choose_device
    from rdvla.training.calibration import calibrate
    from rdvla.training.samples import open_samples

    names = camera_names(options)
    policy = RDVLAPolicy.from_pretrained(options.policy).to(choose_device("auto"))
    dataset = open_samples(policy, options.dataset, camera_names=names, resize=options.resize)
    found = calibrate(
        policy,
        dataset,
        samples=options.samples,
        delta=options.delta,
        risk=options.risk,
        max_depth=options.max_depth,
    )
    print(found.table())
    if options.output is not None:
        write_json(options.output, asdict(found))
        print(f"written: {options.output}")
