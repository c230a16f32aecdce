"""What a check finds: how bad it is, where it is, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EPISODES_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        severity: "error" spoils a training or stops it, "warning" may, "note" is for information.
        check: short name of the check that found it, such as "missing-videos".
        message: one sentence.
        fix: what to do.
        file: relative to the dataset, if it lies in one file.
        episodes: those concerned; empty: all, or none in particular.
        feature: the feature concerned.
    """

    severity: Severity
    check: str
    message: str
    fix: str = ""
    file: str | None = None
    episodes: tuple[int, ...] = ()
    feature: str | None = None

    @property
    def place(self) -> str:
        """File, feature and episodes as one text."""
        parts = [self.file, self.feature, episode_text(self.episodes) if self.episodes else None]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Report:
    """Everything that was found in one dataset.

    Attributes:
        root: the dataset.
        version: of the format, as the dataset says.
        episodes: number of episodes with data.
        frames: number of their frames.
        findings: the worst first.
    """

    root: Path
    version: str
    episodes: int
    frames: int
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Return the number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        findings = [asdict(finding) | {"episodes": list(finding.episodes)} for finding in self.findings]
        return {
            "dataset": str(self.root),
            "version": self.version,
            "episodes": self.episodes,
            "frames": self.frames,
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "findings": findings,
        }


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings, the worst first, otherwise in their order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def episode_text(episodes: Sequence[int]) -> str:
    """Return "episode 3", or "12 episodes (0, 1, 4, ...)"."""
    if len(episodes) == 1:
        return f"episode {episodes[0]}"
    shown = ", ".join(map(str, episodes[:EPISODES_SHOWN]))
    return f"{len(episodes)} episodes ({shown}{', ...' if len(episodes) > EPISODES_SHOWN else ''})"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return the first names with commas between, and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
