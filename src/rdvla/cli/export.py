"""`rdvla export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdvla.errors import missing_extra

if TYPE_CHECKING:
    from rdvla.export import Report

MIB = 2**20


def run(argv: Sequence[str]) -> None:
    """Write a policy as ONNX graphs that run without torch, the adaptive iteration included."""
    parser = argparse.ArgumentParser(prog="rdvla export", description=run.__doc__)
    parser.add_argument("policy", help="folder or hub id of a policy")
    parser.add_argument("output", type=Path, help="folder to write; an older export makes way")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="(%(default)s)")
    parser.add_argument(
        "--part",
        choices=("policy", "head"),
        default="policy",
        help="all of a policy with the compact backbone, or the head of any: features in, normalised actions "
        "out (%(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="int8: weights of matrix products in 8 bits (%(default)s)",
    )
    options = parser.parse_args(argv)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _require(package)
    from rdvla.export import export_head, export_policy
    from rdvla.policy import RDVLAPolicy

    policy = RDVLAPolicy.from_pretrained(options.policy)
    if options.part == "policy":
        report = export_policy(policy, options.output, precision=options.precision)
    else:
        report = export_head(
            policy.head,
            options.output,
            stop=policy.stop_rule,
            execution=policy.config.execution,
            precision=options.precision,
        )
    print(format_report(report))


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
            f"{check.rule}: actions differ from torch's in float32 by up to {check.difference:.1e}, {depths}"
        )
    if report.bfloat16 is not None:
        lines.append(f"float32 in place of bfloat16 changes an action by up to {report.bfloat16:.1e}")
    lines.append(f"(normalised units, random images) written: {report.folder}, {report.precision}")
    return "\n".join(lines)


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise missing_extra(package, "onnx")
