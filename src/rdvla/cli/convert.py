"""`rdvla convert`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rdvla.cli.options import AtLeastOne, Cameras
from rdvla.errors import ConfigError, nearest
from rdvla.files import check_writable, new_folder
from rdvla.simulation.registry import SIMULATORS, task_suite


def run(
    source: str,
    output: Path | None = None,
    *,
    statistics: str | None = None,
    cameras: tuple[str, ...] = ("agentview", "wrist"),
    image_size: AtLeastOne = 256,
    attention: Literal["causal", "bidirectional"] = "causal",
    gripper: Literal["opening", "raw"] | None = None,
    back: str | None = None,
    to: Literal["lerobot", "rdvla"] | None = None,
    check_attention: str | None = None,
    samples: AtLeastOne = 32,
    depth: AtLeastOne = 32,
    dataset_cameras: Cameras | None = None,
) -> None:
    """Turn a published checkpoint into a policy, or back; a policy into LeRobot's layout, or back.

    Args:
        source: published checkpoint, a folder or hub id; with --back, --to or --check-attention, a policy.
        output: new folder.
        statistics: entry of dataset_statistics.json, if it holds several.
        cameras: in the order of training.
        image_size: height and width of the cameras' images in pixels.
        attention: of the language model, which a checkpoint does not tell: see --check-attention.
        gripper: unscaled actions: 1 open and 0 closed (LIBERO's default), or executed as they are.
        back: write the published layout; names a published checkpoint of the same sizes that gives
            everything a policy of ours does not hold.
        to: write the policy so lerobot-eval and lerobot-train open it (with the plugin lerobot_policy_rdvla),
            or a checkpoint of lerobot-train as a policy of ours; every command opens either.
        check_attention: LeRobot dataset: compare the policy's training loss under both kinds of attention.
        samples: with --check-attention: samples, evenly spread over the dataset.
        depth: with --check-attention: iterations.
        dataset_cameras: with --check-attention: the dataset's names of cameras and the policy's, as
            image=agentview.
    """
    if output is not None:
        check_writable(output, option="OUTPUT", folder=True)
    if check_attention is not None:
        _check_attention(
            source,
            check_attention,
            samples=samples,
            depth=depth,
            camera_names=dataset_cameras or {},
        )
    elif output is None:
        raise ConfigError("name the folder to write: rdvla convert SOURCE OUTPUT")
    elif to is not None:
        _write_layout(source, output, layout=to)
    elif back is not None:
        _write_back(source, output, template=back, statistics=statistics)
    else:
        from rdvla.interop import ConvertOptions, convert_published, format_report

        choices = ConvertOptions(
            statistics=statistics,
            cameras=cameras,
            image_size=image_size,
            attention=attention,
            gripper=gripper,
        )
        _check_spelling(cameras)
        conversion = convert_published(source, output, options=choices)
        print(format_report(conversion))
        print(f"statistics of {conversion.statistics}")
        print(f"written: {output}")
        print(f"next: rdvla eval --policy {shlex.quote(str(output))} --output RUN --env ENVIRONMENT")


def _check_spelling(cameras: Sequence[str]) -> None:
    """Note a name that nearly is a simulator's camera; it may be right, as robots name theirs freely."""
    known = {camera for name in SIMULATORS for camera in task_suite(name).cameras}
    for camera in cameras:
        if camera not in known and (meant := nearest(camera, known)):
            print(f"note: no simulator has a camera '{camera}'.{meant}", file=sys.stderr)


def _write_back(source: str, output: Path, *, template: str, statistics: str | None) -> None:
    from rdvla.interop import write_published
    from rdvla.policy import RDVLAPolicy

    policy = RDVLAPolicy.from_pretrained(source)
    write_published(policy, output, template=template, statistics=statistics)
    print(f"written: {output}, in the layout of {template}")


def _write_layout(source: str, output: Path, *, layout: Literal["lerobot", "rdvla"]) -> None:
    from rdvla.policy import RDVLAPolicy
    from rdvla.policy.lerobot import write_lerobot

    policy = RDVLAPolicy.from_pretrained(source)
    with new_folder(output) as temporary:
        if layout == "lerobot":
            write_lerobot(policy, temporary)
        else:
            policy.save_pretrained(temporary)
    print(f"written: {output}")
    place = shlex.quote(str(output))
    if layout == "lerobot":
        print(f"next: lerobot-eval --policy.path={place} --env.type=ENVIRONMENT")
    else:
        print(f"next: rdvla eval --policy {place} --output RUN --env ENVIRONMENT")


def _check_attention(
    source: str, dataset: str, *, samples: int, depth: int, camera_names: dict[str, str]
) -> None:
    from rdvla.policy import RDVLAPolicy, choose_device
    from rdvla.training.attention_check import compare_attention, format_comparison
    from rdvla.training.samples import open_samples

    policy = RDVLAPolicy.from_pretrained(source).to(choose_device("auto"))
    opened = open_samples(policy, dataset, camera_names=camera_names)
    print(format_comparison(compare_attention(policy, opened, samples=samples, depth=depth)))
