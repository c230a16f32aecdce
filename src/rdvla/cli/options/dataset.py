"""Options of the verbs that show samples of a dataset to a policy."""

from __future__ import annotations

import argparse

from rdvla.errors import ConfigError


def add_dataset_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """How the dataset's cameras are called and scaled."""
    parser.add_argument(
        "--dataset-cameras", nargs="+", default=[], metavar="NAME=CAMERA", help="as image=agentview"
    )
    parser.add_argument(
        "--resize", action="store_true", help="scale the dataset's images to the policy's size"
    )


def camera_names(options: argparse.Namespace) -> dict[str, str]:
    """The dataset's names for cameras -> the policy's.

    Raises:
        ConfigError: a pair has no equals sign, or nothing on one side of it.
    """
    names = {}
    for pair in options.dataset_cameras:
        name, _, camera = pair.partition("=")
        if not (name and camera):
            raise ConfigError(f"--dataset-cameras takes NAME=CAMERA, such as image=agentview, got {pair!r}")
        names[name] = camera
    return names
