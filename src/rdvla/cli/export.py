"""`rdvla export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rdvla.errors import ConfigError, missing_extra, optional
from rdvla.files import check_writable

if TYPE_CHECKING:
    from rdvla.export import Report
    from rdvla.export.differences import Difference
    from rdvla.policy import RDVLAPolicy

MIB = 2**20
FRAMES = 64  # of a dataset that an export is compared on
PRECISIONS = {"onnx": ("fp32", "int8"), "aoti": ("fp32", "bf16")}  # by format


def run(
    policy: str,
    output: Path,
    *,
    format: Literal["onnx", "aoti"] = "onnx",
    part: Literal["policy", "head"] = "policy",
    precision: Literal["fp32", "int8", "bf16"] = "fp32",
    dataset: str | None = None,
) -> None:
    """Write a policy for robots: ONNX graphs, or a head as native code.

    ONNX graphs hold the adaptive iteration and run without torch. Native code runs in torch with no compiler
    and no wait.

    Args:
        policy: folder or hub id of a policy, or a run directory of `rdvla train`.
        output: folder to write; an older export makes way.
        format: onnx: graphs; aoti: a head compiled for this kind of processor and this version of torch.
        part: all of a policy with the compact backbone; or any policy's head: features in, normalised
            actions out.
        precision: int8, for onnx: weights of matrix products in 8 bits; bf16, for aoti: matrix products in
            bfloat16.
        dataset: folder or hub id of the robot's demonstrations, on whose frames the export is compared with
            the policy; made-up images if not given.
    """
    if format == "aoti" and part != "head":
        raise ConfigError("--format aoti compiles a head alone: add --part head")
    if precision not in PRECISIONS[format]:
        allowed = " and ".join(PRECISIONS[format])
        raise ConfigError(f"--format {format} has the precisions {allowed}, not {precision}")
    if dataset is not None and part != "policy":
        raise ConfigError(
            "--dataset has images, which a head does not take: leave it out, or export the policy"
        )
    check_writable(output, option="OUTPUT", folder=True)
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _require(package)
    from rdvla.policy import RDVLAPolicy

    loaded = RDVLAPolicy.from_pretrained(policy)
    frames = {} if dataset is None else _frames(loaded, dataset)
    print(format_report(_export(loaded, output, format=format, part=part, precision=precision, **frames)))
    print(f"next: {_how_to_load(output, format=format, part=part)}")


def _how_to_load(output: Path, *, format: str, part: str) -> str:
    if format == "aoti":
        return f'policy.engine = rdvla.engine.load_compiled(policy.head, "{output}")'
    kind = "OnnxPolicy" if part == "policy" else "OnnxHead"
    return f'rdvla.runtime.{kind}.load("{output}")'


def _frames(policy: RDVLAPolicy, dataset: str) -> dict[str, Any]:
    """Return what to compare an export on: frames from all over a dataset."""
    with optional("train"):
        from rdvla.training.samples import observe, open_samples, spread_frames

    opened = open_samples(policy, dataset)
    frames = spread_frames(opened, at_most=FRAMES)
    return {
        "observation": observe(opened, frames),
        "observed": f"{len(frames)} frames of {Path(opened.name).name}",
    }


def _export(
    policy: RDVLAPolicy, output: Path, *, format: str, part: str, precision: Any, **frames: Any
) -> Report:
    from rdvla.engine import recurrent
    from rdvla.export import example_context, export_compiled_head, export_head, export_policy

    if part == "policy":
        return export_policy(policy, output, precision=precision, **frames)
    if format == "onnx":
        execution = policy.config.execution
        return export_head(
            recurrent(policy.head), output, stop=policy.stop, execution=execution, precision=precision
        )
    return export_compiled_head(
        recurrent(policy.head), output, example=example_context(policy), stop=policy.stop, precision=precision
    )


def format_report(report: Report) -> str:
    """Files, and how near the export is to the policy."""
    lines = [f"{name:<20}{size / MIB:>9.2f} MiB" for name, size in report.sizes.items()]
    for check in report.checks if not report.differences else ():
        depths = (
            f"depths {list(check.depths)}"
            if check.depths == check.expected
            else f"depths {list(check.depths)} instead of {list(check.expected)}"
        )
        lines.append(
            f"{check.stop}: actions differ from torch's in float32 by up to {check.difference:.1e}, {depths}"
        )
    lines += _table("differences from torch in float32", report.differences)
    lines += _table("float32 in place of bfloat16 changes actions by", report.bfloat16)
    lines.append(f"(normalised units, on {report.compared_on})")
    lines.append(f"written: {report.folder}, {report.precision}")
    return "\n".join(lines)


def _table(title: str, differences: Sequence[Difference]) -> list[str]:
    if not differences:
        return []
    lines = [f"{title:<48}{'largest':>10}{'95% below':>12}{'other depth':>14}"]
    for each in differences:
        depths = f"{each.other_depths} of {each.samples}"
        lines.append(f"  {each.stop:<46}{each.largest:>10.1e}{each.usual:>12.1e}{depths:>14}")
    return lines


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise missing_extra(package, "export")
