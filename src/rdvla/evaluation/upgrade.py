"""Bring what older versions wrote to the present schema, which alone is read everywhere else.

- Version 1 had one environment, its step limit in the configuration, and did not name the stride of videos.
- Versions 1 and 2 had `rule` and `depth` (null under an adaptive rule) in place of `stop`, and an
  option `rules`.
- Versions 1 to 4 did not know episodes that a policy server played (`served`), nor a person's help.
- Versions 1 to 3 timed queries during the rollouts (`query_ms` of every entry), which nothing reads any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 5
READABLE_VERSIONS = (1, 2, 3, 4, SCHEMA_VERSION)
VERSION_1_VIDEO_STRIDE = 4


def upgrade_results(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a results file of any readable version as a file of the present version.

    Whatever it cannot make sense of stays as it is, for the check that follows to name.
    """
    version = content["schema_version"]
    upgraded = {**content, "schema_version": SCHEMA_VERSION}
    if version == SCHEMA_VERSION:
        return upgraded
    for name in ("rows", "episodes", "summary"):
        if isinstance(content.get(name), list):
            upgraded[name] = [upgrade_entry(entry) for entry in content[name]]
    if isinstance(content.get("meta"), dict):
        upgraded["meta"] = _upgrade_meta(content["meta"])
    return upgraded


def upgrade_entry(values: Any) -> Any:
    """Return a row, a summary or an episode (of a results file or a journal) with the present entries."""
    if not isinstance(values, dict):
        return values
    upgraded = {name: value for name, value in values.items() if name != "query_ms"}
    if "rule" in upgraded:
        rule, depth = upgraded.pop("rule"), upgraded.pop("depth", None)
        kind, at, start = str(rule).partition("@")
        stop = f"{kind}:{depth}{at}{start}" if kind == "fixed" else str(rule)
        upgraded = {"stop": stop, **upgraded}
    if upgraded.get("video") is not None:
        upgraded = {"video_stride": VERSION_1_VIDEO_STRIDE, **upgraded}
    return upgraded


def _upgrade_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    config = meta.get("config", {})
    upgraded = {**meta, "config": {("stops" if name == "rules" else name): config[name] for name in config}}
    if "protocol" not in meta and "env" in config and "max_steps" in config:
        upgraded["protocol"] = {config["env"]: {"max_steps": config["max_steps"]}}
    return upgraded
