"""`rdvla data convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rdvla.cli.options import Cameras, Positive

if TYPE_CHECKING:
    from rdvla.data.convert.conversion import Conversion


def run(
    source: Path,
    output: Path,
    *,
    fps: Positive | None = None,
    action: tuple[str, ...] = (),
    state: tuple[str, ...] = (),
    cameras: Cameras | None = None,
    task: str | None = None,
    robot: str | None = None,
    flip: Literal["none", "vertical", "rotate"] | None = None,
    split: str | None = None,
    skip_damaged: bool = False,
) -> None:
    """Turn RLDS (TFRecord), LIBERO's or robomimic's HDF5, or an older LeRobot dataset into LeRobot v3.0.

    An interrupted conversion goes on where it stopped when it is started again with the same options.

    Args:
        source: folder with features.json and TFRecord files, or an HDF5 file, or a folder of those; or a
            LeRobot dataset (v2.0, v2.1 or v3.0), whose features and names stay and whose videos are copied.
        output: folder of the new dataset; it must not exist, unless the same command wrote it.
        fps: control frequency in Hz; needed if the source does not hold it.
        action: features that make up the action, in this order (default: what the format calls so).
        state: features that make up the proprioception; `none` for none (default: what the format calls so).
        cameras: which cameras to take and what to call them, as image_0=front (default: all, own names).
        task: instruction of the episodes that have none.
        robot: type of the robot, for the dataset's record.
        flip: how to turn the images (default: LIBERO's HDF5 by 180 degrees, as in its published datasets;
            others not at all).
        split: only this part: a split of RLDS, or a mask of robomimic's files.
        skip_damaged: leave out episodes that cannot be read, instead of stopping.
    """
    from rich.console import Console

    from rdvla.cli.data.transferring import text, write
    from rdvla.data.convert.choose import Choices
    from rdvla.data.convert.conversion import convert
    from rdvla.data.convert.sources import open_source
    from rdvla.errors import ConfigError, optional
    from rdvla.files import check_writable
    from rdvla.progress import Progress

    check_writable(output, option="OUTPUT", folder=True)
    if (source / "meta" / "info.json").exists():
        given = {"fps": fps, "action": action, "state": state, "cameras": cameras, "task": task, "flip": flip}
        given |= {"split": split, "skip-damaged": skip_damaged}
        for name, value in given.items():
            if value:
                raise ConfigError(f"--{name} is not for LeRobot datasets, which keep what they have")
        done = write([(source, None)], output, robot_type=robot)
        print(f"{text(done)}\nNext: rdvla train --dataset {output}")
        return
    choices = Choices(fps, action, state, cameras, task, robot, flip)
    with optional("convert"):
        opened = open_source(source, split=split)
    console = Console(stderr=True)
    with Progress(console, transient=True) as bar:
        shown = bar.add_task("episodes", total=None)
        converted = convert(
            opened,
            output,
            choices=choices,
            skip_damaged=skip_damaged,
            progress=lambda done, total: bar.update(shown, completed=done, total=total),
        )
    print(_text(converted, opened.facts.format))


def _text(done: Conversion, kind: str) -> str:
    plan = done.plan
    cameras = ", ".join(f"{new} ({old})" for old, new in plan.cameras.items()) or "none"
    turned = {"none": "", "vertical": ", turned upside down", "rotate": ", rotated by 180 degrees"}[plan.flip]
    lines = [
        f"{kind}: {done.episodes} episodes, {done.frames} frames at {plan.fps} Hz, {len(done.tasks)} tasks",
        f"  action   {' + '.join(plan.action)}",
        f"  state    {' + '.join(plan.state) or 'none'}",
        f"  cameras  {cameras}{turned}",
    ]
    lines += [f"  note     {note}" for note in done.notes]
    reasons = dict.fromkeys(done.left_out)
    lines += [f"  left out {done.left_out.count(reason)} episodes: {reason}" for reason in reasons]
    state = "is written" if done.is_new else "holds this already, so nothing was written"
    return "\n".join([*lines, f"{done.root} {state}. Next: rdvla train --dataset {done.root}"])
