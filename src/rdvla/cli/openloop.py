"""`rdvla openloop`."""

from __future__ import annotations

import shlex
from pathlib import Path

from rdvla.cli.options import AtLeastOne, Cameras, NotNegative, StopText
from rdvla.errors import optional

SEEN = {
    "held out": "held out in training",
    "trained on": "the policy was trained on them, so they say nothing about new episodes",
    "not known": "not the dataset of the training: whether the policy has seen them is not known",
}
STOPS = ("1", "2", "4", "8", "12")


def run(
    policy: str,
    dataset: str,
    *,
    output: Path | None = None,
    stops: tuple[StopText, ...] = (),
    samples: AtLeastOne = 500,
    seed: NotNegative = 0,
    dataset_cameras: Cameras | None = None,
) -> None:
    """Compare a policy's actions with demonstrations, for robots without a simulator; write a page.

    It takes the episodes that the policy's training held out, if the dataset is the one it was trained on.

    Args:
        policy: folder or hub id of a policy, or a run directory of `rdvla train`.
        dataset: folder or hub id of a dataset of the same robot.
        output: folder of open_loop.json and open_loop.html (default: open_loop in the run directory or here).
        stops: depths and stop rules (default: 1, 2, 4, 8, 12 and the policy's own rule).
        samples: at most so many, evenly spread over the episodes.
        seed: of the noise that queries start from.
        dataset_cameras: the dataset's names of cameras and the policy's, as image=agentview.
    """
    with optional("train,report"):
        from rdvla.training.open_loop.compare import compare
        from rdvla.training.open_loop.page import write_results
    from rdvla.files import check_writable
    from rdvla.policy import RDVLAPolicy, choose_device
    from rdvla.training.samples import open_samples

    folder = output or ((Path(policy) if Path(policy).is_dir() else Path()) / "open_loop")
    check_writable(folder, option="--output", folder=True)
    loaded = RDVLAPolicy.from_pretrained(policy).to(choose_device("auto"))
    opened = open_samples(loaded, dataset, camera_names=dataset_cameras or {})
    chosen = stops or tuple(dict.fromkeys((*STOPS, loaded.config.stop)))
    found = compare(loaded, opened, stops=chosen, samples=samples, seed=seed)
    for row in found.rows:
        interval = "" if row.interval is None else f"  ({row.interval[0]:.4f} to {row.interval[1]:.4f})"
        print(f"{row.stop:<28}{row.depth:6.1f} iterations  L1 {row.error:.4f}{interval}")
    print(f"{len(found.episodes)} episodes, {found.samples} samples; {SEEN[found.seen]}")
    meta = {
        "policy": Path(policy).name,
        "dataset": Path(opened.name).name,
        "stop": loaded.config.stop,
        "seed": seed,
        "hardware": _hardware(),
    }
    print(f"written: {write_results(found, folder, meta=meta)}, open_loop.json")
    print(f"next: look at the page, or rdvla data inspect {shlex.quote(dataset)}")


def _hardware() -> str:
    from rdvla.evaluation.provenance import describe_hardware

    return ", ".join(str(value) for value in describe_hardware().values())
