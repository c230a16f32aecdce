"""`rdvla info`."""

from __future__ import annotations

from json import dumps
from typing import Any

KINDS = ("all", "frozen", "lora", "trained")


def run(policy: str, *, json: bool = False) -> None:
    """Show what a policy is made of: parts, parameters, tokens, memory, statistics, provenance.

    Args:
        policy: folder or hub id of a policy, or a run directory of `rdvla train`.
        json: print the same as JSON, and the configuration.
    """
    from rdvla.policy import TRAINING, RDVLAPolicy, describe

    loaded = RDVLAPolicy.from_pretrained(policy)
    facts = describe(loaded) | {"provenance": loaded.records.get(TRAINING, {})}
    print(dumps(facts, indent=2) if json else format_facts(facts))


def format_facts(facts: dict[str, Any]) -> str:
    """Lay the facts out as text; `--json` shows the full configuration as well."""
    lines: list[str] = []
    for title in ("parts", "head"):
        lines.append(f"{title + ' (parameters)':<36}" + "".join(f"{kind:>15}" for kind in KINDS))
        lines += [
            f"  {name:<34}" + "".join(f"{counts[kind]:>15,}" for kind in KINDS)
            for name, counts in facts[title].items()
        ]
    lines += [f"base model                            {name}" for name in facts["base_models"]]
    for title in ("levels", "sizes", "running", "inputs", "tokens", "memory_mib"):
        lines.append("memory (MiB)" if title == "memory_mib" else title)
        lines += [f"  {name:<36}{_text(value)}" for name, value in facts[title].items()]
    lines.append("statistics")
    for feature, entries in facts["statistics"].items():
        lines += [f"  {feature + ' ' + name:<36}{_text(values)}" for name, values in entries.items()]
    lines.append("provenance")
    recorded = {name: value for name, value in facts["provenance"].items() if name != "config"}
    lines += [f"  {name:<36}{_text(value)}" for name, value in recorded.items()] or ["  not recorded"]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
