"""`rdvla export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdvla.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from rdvla.export import Report
    from rdvla.policy import RDVLAPolicy

MIB = 2**20
PRECISIONS = {"onnx": ("fp32", "int8"), "aoti": ("fp32", "bf16")}  # by format


def run(argv: Sequence[str]) -> None:
    """Write a policy for robots: ONNX graphs with the adaptive iteration, which run without torch; or a head
    as native code, which runs in torch with no compiler and no wait.
    """
    parser = argparse.ArgumentParser(prog="rdvla export", description=run.__doc__)
    parser.add_argument("policy", help="folder or hub id of a policy")
    parser.add_argument("output", type=Path, help="folder to write; an older export makes way")
    parser.add_argument(
        "--format",
        choices=tuple(PRECISIONS),
        default="onnx",
        help="onnx: graphs; aoti: a head compiled for this kind of processor and this version of torch "
        "(%(default)s)",
    )
    parser.add_argument(
        "--part",
        choices=("policy", "head"),
        default="policy",
        help="all of a policy with the compact backbone, or the head of any: features in, normalised actions "
        "out (%(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=tuple(dict.fromkeys(precision for each in PRECISIONS.values() for precision in each)),
        default="fp32",
        help="of onnx int8: weights of matrix products in 8 bits; of aoti bf16: matrix products in bfloat16 "
        "(%(default)s)",
    )
    options = parser.parse_args(argv)
    _check(options)
    if options.format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _require(package)
    from rdvla.policy import RDVLAPolicy

    print(format_report(_export(RDVLAPolicy.from_pretrained(options.policy), options)))


def _check(options: argparse.Namespace) -> None:
    if options.format == "aoti" and options.part != "head":
        raise ConfigError("--format aoti compiles a head alone: add --part head")
    if options.precision not in PRECISIONS[options.format]:
        raise ConfigError(
            f"--format {options.format} has the precisions {' and '.join(PRECISIONS[options.format])}, not "
            f"{options.precision}"
        )


def _export(policy: RDVLAPolicy, options: argparse.Namespace) -> Report:
    from rdvla.export import example_context, export_compiled_head, export_head, export_policy

    output, precision = options.output, options.precision
    if options.part == "policy":
        return export_policy(policy, output, precision=precision)
    if options.format == "onnx":
        execution = policy.config.execution
        return export_head(policy.head, output, stop=policy.stop, execution=execution, precision=precision)
    return export_compiled_head(
        policy.head, output, example=example_context(policy), stop=policy.stop, precision=precision
    )


def format_report(report: Report) -> str:
    """Files, and how near the export is to the policy."""
    lines = [f"{name:<20}{size / MIB:>9.2f} MiB" for name, size in report.sizes.items()]
    for check in report.checks:
        depths = (
            f"depths {list(check.depths)}"
            if check.depths == check.expected
            else f"depths {list(check.depths)} instead of {list(check.expected)}"
        )
        lines.append(
            f"{check.stop}: actions differ from torch's in float32 by up to {check.difference:.1e}, {depths}"
        )
    if report.bfloat16 is not None:
        lines.append(f"float32 in place of bfloat16 changes an action by up to {report.bfloat16:.1e}")
    lines.append(f"(normalised units, random images) written: {report.folder}, {report.precision}")
    return "\n".join(lines)


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise missing_extra(package, "onnx")
