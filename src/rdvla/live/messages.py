"""What the page is told, as plain values for JSON. Numbers that are not finite become null."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.control.desk import Place
from rdvla.live.events import QueryEvent, RobotFacts
from rdvla.live.hub import RobotView, Row
from rdvla.live.pictures import Pictures

DIGITS = 5  # of a number on the page


def robot_message(view: RobotView, *, place: Place, driver: str | None) -> dict[str, Any]:
    """Say who a robot is and how it is; `driver` is "you", "another" or None."""
    last = view.last
    return {
        "robot": view.state.robot,
        "policy": view.state.policy,
        "connected": view.state.connected,
        "phase": place.phase,
        "cause": place.cause,
        "driver": driver,
        "note": view.state.note,
        "since": view.since,
        "changed": view.state.time,
        "queries": view.queries,
        "instruction": "" if last is None else last.instruction,
        "drivable": view.facts.can_be_driven,
    }


def row_message(row: Row) -> list[Any]:
    """Return a query's figures, in the order that the page's `charts.js` names."""
    return [
        row.serial,
        row.number,
        row.time,
        row.depth,
        row.max_depth,
        row.ended_by,
        number(row.uncertainty),
        number(row.band),
        row.help_requested,
        number(row.waiting_ms),
        number(row.inference_ms),
        number(row.total_ms),
        row.batch_size,
    ]


def shown_message(view: RobotView, pictures: Pictures) -> dict[str, Any]:
    """Return everything of the robot that a watcher has chosen: images, chunk and facts."""
    message: dict[str, Any] = {"robot": view.state.robot, "facts": facts_message(view.facts)}
    if view.last is not None:
        message |= query_message(view.last, view.before, pictures)
    return message


def query_message(last: QueryEvent, before: QueryEvent | None, pictures: Pictures) -> dict[str, Any]:
    """Return what the newest query saw and decided, with the chunk of the one before."""
    return {
        "number": last.number,
        "instruction": last.instruction,
        "images": pictures.all(last.images),
        "state": numbers(last.state),
        "actions": numbers(last.actions),
        "execute_steps": last.execute_steps,
        "previous": None if before is None else numbers(before.actions),
        "previous_steps": None if before is None else before.execute_steps,
    }


def facts_message(facts: RobotFacts) -> dict[str, Any]:
    """Return what labels a robot's actions and lets a person drive it."""
    return {
        "names": list(facts.action_names),
        "low": numbers(facts.action_low),
        "high": numbers(facts.action_high),
        "held": list(facts.action_held),
        "control_hz": facts.control_hz,
    }


def number(value: float | None) -> float | None:
    """Return a number with few digits; None if there is none, or if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def numbers(values: NDArray[np.float32] | tuple[float, ...]) -> list[Any]:
    """Return an array of any shape as nested lists of `number`."""
    rows: list[Any] = np.asarray(values, dtype=np.float64).tolist()
    return _rounded(rows)


def _rounded(values: list[Any]) -> list[Any]:
    return [_rounded(value) if isinstance(value, list) else number(value) for value in values]
