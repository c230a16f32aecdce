"""`rdvla calibrate`."""

from __future__ import annotations

import shlex
from pathlib import Path

from rdvla.cli.options import AtLeastTwo, Cameras, Positive, Share


def run(
    policy: str,
    dataset: str,
    *,
    samples: AtLeastTwo = 1000,
    delta: Positive = 1e-3,
    risk: Share = 0.02,
    max_depth: AtLeastTwo = 32,
    dataset_cameras: Cameras | None = None,
    output: Path | None = None,
) -> None:
    """Find stop rules on the latent state that keep the action change below delta, from demonstrations.

    Prints rules for `rdvla eval --stops` or the policy's `stop`, and what they did on episodes that they
    were not calibrated on.

    Args:
        policy: folder or hub id of a policy, or a run directory of `rdvla train`.
        dataset: folder or hub id of a LeRobot dataset.
        samples: samples, evenly spread over the dataset.
        delta: change of the actions at which the paper's rule stops.
        risk: share of samples that may stop while the actions still change by delta.
        max_depth: depth at which every sample stops.
        dataset_cameras: the dataset's names of cameras and the policy's, as image=agentview.
        output: JSON file to write as well.
    """
    from dataclasses import asdict

    from rdvla.files import check_writable, write_json

    if output is not None:
        check_writable(output, option="--output")
    from rdvla.policy import RDVLAPolicy, choose_device
    from rdvla.training.calibration import calibrate
    from rdvla.training.samples import open_samples

    loaded = RDVLAPolicy.from_pretrained(policy).to(choose_device("auto"))
    opened = open_samples(loaded, dataset, camera_names=dataset_cameras or {})
    found = calibrate(loaded, opened, samples=samples, delta=delta, risk=risk, max_depth=max_depth)
    print(found.table())
    if output is not None:
        write_json(output, asdict(found))
        print(f"written: {output}")
    rule = found.outcomes[1].rule  # the first that was calibrated
    print(f"next: rdvla eval --policy {shlex.quote(policy)} --output RUN --stops '[\"{rule}\"]'")
    print(f'or: policy.predict(observation, stop="{rule}")')
