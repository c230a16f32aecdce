"""`rdvla convert`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rdvla.cli.options.dataset import add_dataset_options, camera_names
from rdvla.errors import ConfigError


def run(argv: Sequence[str]) -> None:
    """Turn a published checkpoint into a policy, or back; or check how its language model attends."""
    parser = argparse.ArgumentParser(prog="rdvla convert", description=run.__doc__)
    parser.add_argument(
        "source",
        help="published checkpoint, a folder or hub id; with --back or --check-attention, a policy of ours",
    )
    parser.add_argument("output", nargs="?", type=Path, help="new folder")
    _add_published(parser.add_argument_group("from the published layout"))
    _add_back(parser.add_argument_group("back to the published layout"))
    _add_check(parser.add_argument_group("check of the attention, with a few samples of a dataset"))
    options = parser.parse_args(argv)
    if options.check_attention is not None:
        _check_attention(options)
    elif options.output is None:
        raise ConfigError("name the folder to write: rdvla convert SOURCE OUTPUT")
    elif options.back is not None:
        _write_back(options)
    else:
        _convert(options)


def _add_published(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--statistics", help="entry of dataset_statistics.json, where it holds several")
    group.add_argument(
        "--cameras", nargs="+", default=["agentview", "wrist"], help="in the order of training (%(default)s)"
    )
    group.add_argument("--image-size", type=int, default=256, help="pixels that cameras give (%(default)s)")
    group.add_argument(
        "--attention",
        choices=("causal", "bidirectional"),
        default="causal",
        help="of the language model, which a checkpoint does not tell: see --check-attention (%(default)s)",
    )
    group.add_argument(
        "--gripper",
        choices=("opening", "raw"),
        help="unscaled actions: 1 open and 0 closed (LIBERO's default), or executed as they are",
    )


def _add_back(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--back",
        metavar="TEMPLATE",
        help="published checkpoint of the same sizes that gives everything a policy of ours does not hold",
    )


def _add_check(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--check-attention",
        metavar="DATASET",
        help="LeRobot dataset: compare the policy's training loss under both kinds of attention",
    )
    group.add_argument("--samples", type=int, default=32, help="evenly spread over the data (%(default)s)")
    group.add_argument("--depth", type=int, default=32, help="iterations (%(default)s)")
    add_dataset_options(group)


def _convert(options: argparse.Namespace) -> None:
    from rdvla.interop import ConvertOptions, convert_published, format_report

    choices = ConvertOptions(
        statistics=options.statistics,
        cameras=tuple(options.cameras),
        image_size=options.image_size,
        attention=options.attention,
        gripper=options.gripper,
    )
    conversion = convert_published(options.source, options.output, options=choices)
    print(format_report(conversion))
    print(f"statistics of {conversion.statistics}; the policy is in {options.output}")


def _write_back(options: argparse.Namespace) -> None:
    from rdvla.interop import write_published
    from rdvla.policy import RDVLAPolicy

    policy = RDVLAPolicy.from_pretrained(options.source)
    write_published(policy, options.output, template=options.back, statistics=options.statistics)
    print(f"{options.source} is in {options.output}, in the layout of {options.back}")


def _check_attention(options: argparse.Namespace) -> None:
    from rdvla.policy import RDVLAPolicy, choose_device
    from rdvla.training.attention_check import compare_attention, format_comparison
    from rdvla.training.samples import open_samples

    names = camera_names(options)
    policy = RDVLAPolicy.from_pretrained(options.source).to(choose_device("auto"))
    dataset = open_samples(policy, options.check_attention, camera_names=names, resize=options.resize)
    losses = compare_attention(policy, dataset, samples=options.samples, depth=options.depth)
    print(format_comparison(losses))
