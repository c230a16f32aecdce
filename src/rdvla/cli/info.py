"""`rdvla info`."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Any

KINDS = ("all", "frozen", "lora", "trained")


def run(thing: str, *, json: bool = False) -> None:
    """Show what a policy, a training run or a dataset holds.

    Of a policy: parts, parameters, tokens, memory, statistics, provenance. Of a run also how far it is, and
    how it goes on. Of a dataset: episodes, tasks, and the range of every number.

    Args:
        thing: folder or hub id of a policy, run directory of `rdvla train`, or folder of a dataset.
        json: print the same as JSON, and a policy's configuration.
    """
    folder = Path(thing)
    if (folder / "meta" / "info.json").is_file():
        _dataset(folder, json=json)
        return
    from rdvla.training.run_facts import describe_run, is_run

    facts = {"run": describe_run(folder)} if is_run(folder) else {}
    if not facts or facts["run"]["has a policy"]:
        facts |= _policy(thing)
    print(dumps(facts, indent=2) if json else format_facts(facts))


def _policy(thing: str) -> dict[str, Any]:
    from rdvla.policy import TRAINING, RDVLAPolicy, describe
    from rdvla.policy.checksums import describe_checksums
    from rdvla.policy.files import find_policy_folder

    loaded = RDVLAPolicy.from_pretrained(thing)
    checksums = describe_checksums(find_policy_folder(thing))
    return describe(loaded) | {"checksums": checksums, "provenance": loaded.records.get(TRAINING, {})}


def _dataset(folder: Path, *, json: bool) -> None:
    from rich.console import Console

    from rdvla.errors import optional

    with optional("data"):
        from rdvla.data.formats.registry import open_reader
        from rdvla.data.inspect.facts import gather
        from rdvla.data.inspect.terminal import WIDTH_OF_A_FILE, show

    facts = gather(open_reader(folder).with_cameras(None))
    if json:
        print(dumps(facts.to_dict(), indent=2))
        return
    console = Console(highlight=False)
    show(facts, console if console.is_terminal else Console(highlight=False, width=WIDTH_OF_A_FILE))
    print(f"Next: rdvla data inspect {folder} --output page.html")


def format_facts(facts: dict[str, Any]) -> str:
    """Lay the facts out as text; `--json` shows the full configuration as well."""
    lines: list[str] = []
    if "run" in facts:
        lines += ["run", *(f"  {name:<36}{_text(value)}" for name, value in facts["run"].items())]
    if "parts" not in facts:
        return "\n".join(lines)
    for title in ("parts", "head"):
        lines.append(f"{title + ' (parameters)':<36}" + "".join(f"{kind:>15}" for kind in KINDS))
        lines += [
            f"  {name:<34}" + "".join(f"{counts[kind]:>15,}" for kind in KINDS)
            for name, counts in facts[title].items()
        ]
    lines += [f"base model                            {name}" for name in facts["base_models"]]
    for title in ("levels", "sizes", "running", "inputs", "robot", "tokens", "memory_mib"):
        lines.append("memory (MiB)" if title == "memory_mib" else title)
        lines += [f"  {name:<36}{_text(value)}" for name, value in facts[title].items()]
    lines.append("statistics")
    for feature, entries in facts["statistics"].items():
        lines += [f"  {feature + ' ' + name:<36}{_text(values)}" for name, values in entries.items()]
    lines.append(f"checksums                             {facts['checksums']}")
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
