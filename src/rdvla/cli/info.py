"""`rdvla info`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdvla.policy import RDVLAPolicy


def run(argv: Sequence[str]) -> None:
    """Show what a policy is made of: parts, parameters, context levels, statistics, provenance."""
    parser = argparse.ArgumentParser(prog="rdvla info", description=run.__doc__)
    parser.add_argument("policy", help="folder or hub id of a policy")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    options = parser.parse_args(argv)
    from rdvla.policy import RDVLAPolicy

    policy = RDVLAPolicy.from_pretrained(options.policy)
    facts = describe(policy, provenance=_provenance(Path(options.policy)))
    print(json.dumps(facts, indent=2) if options.json else format_facts(facts))


def describe(policy: RDVLAPolicy, *, provenance: dict[str, Any]) -> dict[str, Any]:
    """Collect what is worth knowing of a policy as plain values."""
    from rdvla.configuration import encode_config

    head = policy.config.head
    parts = {name: _count(part) for name, part in policy.named_children()}
    return {
        "parts": parts | {"total": _count(policy)},
        "head": {name: _count(part) for name, part in policy.head.named_children()},
        "levels": {part: list(getattr(head, part)) for part in ("prelude", "core", "coda")},
        "sizes": {
            "hidden_dim (D)": head.hidden_dim,
            "chunk_size (K)": head.chunk_size,
            "action_dim (A)": head.action_dim,
            "context_dim": head.context_width,
        },
        "running": {"depth": policy.config.depth, "execution": policy.config.execution},
        "inputs": {
            "cameras": list(policy.config.cameras),
            "image_size": policy.config.image_size,
            "state_dim": policy.config.state_dim,
        },
        "statistics": {
            feature: {name: _floats(entries[name]) for name in ("q01", "q99") if name in entries}
            for feature, entries in policy.statistics.items()
        },
        "provenance": provenance,
        "config": encode_config(policy.config),
    }


def format_facts(facts: dict[str, Any]) -> str:
    """Lay the facts out as text; the full configuration is left to `--json`."""
    lines: list[str] = []
    for title in ("parts", "head"):
        lines.append(f"{title + ' (parameters)':<24}{'all':>12}{'trainable':>12}")
        lines += [
            f"  {name:<22}{count['all']:>12,}{count['trainable']:>12,}"
            for name, count in facts[title].items()
        ]
    for title in ("levels", "sizes", "running", "inputs"):
        lines.append(title)
        lines += [f"  {name:<22}{_text(value)}" for name, value in facts[title].items()]
    lines.append("statistics")
    for feature, entries in facts["statistics"].items():
        lines += [f"  {feature + ' ' + name:<22} {_text(values)}" for name, values in entries.items()]
    lines.append("provenance")
    told = {name: value for name, value in facts["provenance"].items() if name != "config"}
    lines += [f"  {name:<22}{_text(value)}" for name, value in told.items()] or ["  not recorded"]
    return "\n".join(lines)


def _count(module: Any) -> dict[str, int]:
    parameters = list(module.parameters())
    return {
        "all": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def _provenance(folder: Path) -> dict[str, Any]:
    """Read what `rdvla train` wrote beside the weights; a policy from elsewhere has none."""
    from rdvla.files import read_json

    record = folder / "training.json"
    found: dict[str, Any] = read_json(record) if record.is_file() else {}
    return found


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
