"""The model card: a policy's configuration, training data, results, and the licences that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from rdvla.files import HUB_ID
from rdvla.policy.config import PolicyConfig
from rdvla.policy.records import TRAINING

HUB = "https://huggingface.co"
USE = """```python
from rdvla import RDVLAPolicy

policy = RDVLAPolicy.from_pretrained("this folder, or its id on the hub")
```

`config.json` holds sizes, cameras and default rules, `statistics.json` the units that it was trained in."""
NO_BASE = "The weights are under the MIT licence. They were trained from scratch, without published models."
NAMED = """What was trained is in this repository, under the MIT licence as far as the trainer's own rights
go. It works only with the published model{s} that it stands on, which {are} loaded by name and not part of
it. Their licences apply to them, and may apply to what is derived from them; read them before you use this
policy or pass it on:
"""
INCLUDED = """The weights hold published ones, trained further where the section on data says so. What was
added is under the MIT licence, as far as the trainer's own rights go. The licences of what is listed here,
and of what that was made from, apply to the rest; read them before you use this policy or pass it on:
"""


def write_card(
    config: PolicyConfig,
    *,
    parameters: Mapping[str, int],
    base_models: Sequence[str],
    by_name: bool,
    records: Mapping[str, Any],
    summary: Sequence[Mapping[str, Any]],
) -> ModelCard:
    """Write a policy's card.

    Args:
        config: the policy's.
        parameters: numbers of parameters by kind: all, frozen, lora, trained.
        base_models: hub ids or folders of the published models that it needs.
        by_name: whether it only names them, without holding their weights.
        records: the files next to the weights, by name.
        summary: lines of a results file; empty if there is none.
    """
    training = records.get(TRAINING, {})
    datasets = training.get("dataset", {})
    public = [name.split("@")[0] for name in base_models if is_hub_id(name)]
    data = ModelCardData(
        library_name="rdvla",
        pipeline_tag="robotics",
        tags=["robotics", "vision-language-action", *config.head.card_tags],
        license="other" if base_models else "mit",
        license_name="see-base-model" if base_models else None,
        base_model=public or None,
        datasets=[name.split("@")[0] for name in datasets.get("on_hub", [])] or None,
    )
    sections = [
        f"# {config.head.card_title}\n\n{config.head.card_summary}\n\n{USE}",
        "## Configuration\n\n" + _configuration(config, parameters),
        "## Data\n\n" + _data(training),
        "## Results\n\n" + _results(summary),
        "## Licence\n\n" + _licence(base_models, by_name=by_name),
    ]
    front = str(data)  # YAML
    return ModelCard(f"---\n{front}\n---\n\n" + "\n\n".join(sections) + "\n")


def is_hub_id(name: str) -> bool:
    """Return whether others can find a name on the hub, rather than in a folder here."""
    match = HUB_ID.fullmatch(name)
    return match is not None and not Path(match["repository"]).exists()


def _configuration(config: PolicyConfig, parameters: Mapping[str, int]) -> str:
    head = config.head
    levels = head.levels_by_part
    shown = [", ".join(map(str, each)) or "none" for each in levels.values()]
    rows = {
        "cameras, in order": "; ".join(f"{name}: {text}" for name, text in config.fits.in_words().items()),
        "proprioception": f"{config.state_dim} numbers",
        "actions": f"chunks of {head.chunk_size}, {head.action_dim} numbers each",
        f"levels read by {' / '.join(levels)}": " / ".join(shown),
        **head.facts,
        "default stop rule, start, execution": f"`{config.stop}`, `{config.start}`, `{config.execution}`",
        "parameters": ", ".join(f"{count:,} {kind}" for kind, count in parameters.items()),
    }
    return _table(("what", "value"), list(rows.items()))


def _data(training: Mapping[str, Any]) -> str:
    if not training:
        return "How it was trained is not recorded."
    public = training["dataset"].get("on_hub", [])
    roots = [root.strip() for root in training["dataset"]["root"].split(",")]
    named = [
        f"[{root}]({HUB}/datasets/{root.split('@')[0]})" if root in public else f"`{Path(root).name}`"
        for root in roots
    ]
    return (
        f"Trained on {', '.join(named)} (LeRobot v3.0) for {training['steps']} updates; `{TRAINING}` holds "
        "every setting."
    )


def _results(summary: Sequence[Mapping[str, Any]]) -> str:
    if not summary:
        return "None are recorded."
    rows = [
        (
            line["env"] or "average",
            _stop(line),
            line["execution"],
            line["episodes"],
            _percent(line["success"]),
            f"{_percent(line['success_low'])}-{_percent(line['success_high'])}",
            "-" if line["mean_depth"] is None else f"{line['mean_depth']:.2f}",
        )
        for line in summary
    ]
    titles = ("environment", "depth", "execution", "episodes", "success", "95% interval", "mean iterations")
    return "In closed loop, by `rdvla eval`:\n\n" + _table(titles, rows)


def _stop(line: Mapping[str, Any]) -> str:
    if "rule" in line:  # results of older versions have `rule` and `depth` for `stop`
        return str(line["rule"]) if line["depth"] is None else f"{line['rule']} {line['depth']}"
    kind, _, depth = line["stop"].partition(":")
    return f"fixed {depth}" if kind == "fixed" else str(line["stop"])


def _licence(base_models: Sequence[str], *, by_name: bool) -> str:
    if not base_models:
        return NO_BASE
    several = len(base_models) > 1
    text = NAMED.replace("{s}", "s" if several else "").replace("{are}", "are" if several else "is")
    links = [
        f"- [{name}]({HUB}/{name.split('@')[0]})"
        if is_hub_id(name)
        else f"- `{Path(name).name}`, a local folder"
        for name in base_models
    ]
    return (text if by_name else INCLUDED) + "\n" + "\n".join(links)


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
