"""`rdvla data merge`."""

from __future__ import annotations

from pathlib import Path


def run(datasets: list[Path], output: Path, *, robot: str | None = None) -> None:
    """Make one LeRobot v3.0 dataset of several; video streams are copied, not encoded again.

    The datasets must agree in frames per second, in the size and names of action and state, and in the size
    of the images. Features and cameras that not all of them have are left out.

    Args:
        datasets: folders of LeRobot datasets (v2.0, v2.1 or v3.0), in their order.
        output: folder of the new dataset; it must not exist, unless the same command wrote it.
        robot: type of the robot for the record, if the datasets differ in it.
    """
    from rdvla.cli.data.transferring import text, write
    from rdvla.files import check_writable

    check_writable(output, option="OUTPUT", folder=True)
    done = write([(root, None) for root in datasets], output, robot_type=robot)
    print(f"{text(done)}\nNext: rdvla train --dataset {done.root}")
