"""Logs what a hub is told to Rerun: into a recording file, to a viewer that runs, or to one that it starts.

Every robot is an entity, below it its cameras, chunk, depth, uncertainty and times. The timelines are `time`,
`query` (queries of the robot so far) and, for actions, `action` (actions of the robot so far).
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import numpy as np

from rdvla.errors import ConfigError, RDVLAError, optional
from rdvla.live.events import Event, QueryEvent, RobotEvent, RobotFacts, StepEvent
from rdvla.live.hub import Hub
from rdvla.live.pictures import jpeg

if TYPE_CHECKING:
    from rerun import RecordingStream

APPLICATION = "rdvla"
SPAWN = "spawn"
SCHEMES = ("rerun", "rerun+http", "rerun+https")  # of viewers' addresses
CAPACITY = 1000  # events that may wait to be written
FLUSH_SECONDS = 20.0


def check_target(target: str) -> None:
    """Check that a text says where to log to.

    Raises:
        ConfigError: it is no .rrd file, no address of a viewer, and not `spawn`; or no file can be written
            there.
    """
    if target != SPAWN and not _is_address(target) and not target.endswith(".rrd"):
        raise ConfigError(
            f"rerun must be a file.rrd, spawn, or the address of a viewer such as "
            f"rerun+http://127.0.0.1:9876/proxy, got {target!r}"
        )
    if target.endswith(".rrd") and not _is_address(target):
        folder = next(parent for parent in Path(target).absolute().parents if parent.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise ConfigError(f"rerun: {target} cannot be written: {folder} is no folder to write into")


def _is_address(target: str) -> bool:
    try:
        address = urlsplit(target)
        return address.scheme in SCHEMES and bool(address.hostname) and address.path == "/proxy"
    except ValueError:  # such as half of an IPv6 address
        return False


class RerunLog:
    """Logs events from another thread until the end of the `with` block.

    Args:
        hub: whose events.
        target: see `check_target`.

    Raises:
        ConfigError: it is none, or the file exists; at the beginning of the block: it cannot be opened.
        MissingExtraError: Rerun is not installed; raised at the beginning of the block.
        RDVLAError: not everything could be logged; raised at the end of the block.
    """

    def __init__(self, hub: Hub, target: str) -> None:
        check_target(target)
        if target != SPAWN and not _is_address(target) and Path(target).exists():
            raise ConfigError(f"rerun: {target} exists already: name another file, or remove it")
        self._hub, self._target = hub, target
        self._watcher = hub.watch(CAPACITY)
        self._problem: Exception | None = None
        self._writer: _Writer | None = None
        self._thread = threading.Thread()

    def __enter__(self) -> Self:
        with optional("rerun"):
            import rerun
        stream = rerun.RecordingStream(APPLICATION)
        try:
            if self._target == SPAWN:
                stream.spawn()
            elif _is_address(self._target):
                stream.connect_grpc(self._target)
            else:
                Path(self._target).parent.mkdir(parents=True, exist_ok=True)
                stream.save(self._target)
        except (OSError, RuntimeError) as error:  # the second is Rerun's
            raise ConfigError(f"rerun: {self._target} cannot be opened: {error}") from error
        self._writer = _Writer(stream)
        self._thread = threading.Thread(target=self._write, args=(self._writer,), name="rerun", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with nullcontext() if error is None else suppress(RDVLAError):
            self.close()

    def close(self) -> None:
        """Log what is left; a second call does nothing.

        Raises:
            RDVLAError: not everything could be logged.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        self._watcher.close()
        self._thread.join(FLUSH_SECONDS)
        try:
            writer.close()
        except Exception as problem:  # noqa: BLE001  # of Rerun, such as a viewer that has gone
            self._problem = self._problem or problem
        if self._problem is not None:
            raise RDVLAError(f"not everything was logged to {self._target}: {self._problem}")
        if self._watcher.dropped:
            raise RDVLAError(
                f"{self._watcher.dropped} events were not logged to {self._target}: it takes fewer than come"
            )

    def _write(self, writer: _Writer) -> None:
        try:
            while (event := self._watcher.next()) is not None:
                writer.write(event)
        except Exception as problem:  # noqa: BLE001  # told at the end: the robots go on
            self._problem = problem
            self._watcher.close()


class _Writer:
    """Turns events into entities of one recording."""

    def __init__(self, stream: RecordingStream) -> None:
        self._stream = stream
        self._facts: dict[str, RobotFacts] = {}
        self._queries: dict[str, int] = {}
        self._actions: dict[str, int] = {}

    def close(self) -> None:
        self._stream.flush(timeout_sec=FLUSH_SECONDS)
        self._stream.disconnect()

    def write(self, event: Event) -> None:
        self._stream.reset_time()
        self._stream.set_time("time", timestamp=event.time)
        if isinstance(event, RobotEvent):
            self._robot(event)
        elif isinstance(event, StepEvent):
            self._cameras(event)
        else:
            self._query(event)

    def _robot(self, event: RobotEvent) -> None:
        import rerun

        if event.facts is not None:
            self._facts[event.robot] = event.facts
        words = ["came" if event.connected else "went", event.phase, event.note]
        self._log(event.robot, "log", rerun.TextLog(", ".join(filter(None, words))))
        if not event.connected:
            for known in (self._facts, self._queries, self._actions):
                known.pop(event.robot, None)

    def _query(self, event: QueryEvent) -> None:
        import rerun

        count = self._queries[event.robot] = self._queries.get(event.robot, -1) + 1
        self._stream.set_time("query", sequence=count)
        self._cameras(event)
        self._log(event.robot, "instruction", rerun.TextDocument(event.instruction))
        numbers = {
            "depth/used": event.depth,
            "depth/allowed": event.max_depth,
            "uncertainty/value": event.uncertainty,
            "batch_size": event.batch_size,
            **{f"milliseconds/{name}": value for name, value in event.milliseconds.items()},
        }
        if event.band is not None:
            numbers["uncertainty/band"] = event.band
        for name, value in numbers.items():
            self._log(event.robot, name, rerun.Scalars([float(value)]))
        words = [f"ended by {event.ended_by}", event.phase, "help requested" if event.help_requested else ""]
        level = "WARN" if event.help_requested or event.ended_by == "deadline" else "INFO"
        self._log(event.robot, "log", rerun.TextLog(", ".join(filter(None, words)), level=level))
        chunk = np.asarray(event.actions, dtype=np.float32)
        self._log(event.robot, "chunk", rerun.Tensor(chunk, dim_names=("action", "dimension")))
        self._executed(event.robot, chunk[: event.execute_steps])

    def _executed(self, robot: str, actions: np.ndarray[Any, Any]) -> None:
        """Log the actions that are executed before the next query, each at its place."""
        import rerun

        first = self._actions.get(robot, 0)
        self._actions[robot] = first + len(actions)
        places = rerun.TimeColumn("action", sequence=range(first, first + len(actions)))
        names = self._facts.get(robot, RobotFacts()).action_names
        for dimension in range(actions.shape[1]):
            name = names[dimension] if dimension < len(names) else str(dimension)
            self._stream.send_columns(
                rerun.new_entity_path([robot, "actions", name]),
                indexes=[places],
                columns=rerun.Scalars.columns(scalars=actions[:, dimension].astype(np.float64)),
                strict=True,
            )

    def _cameras(self, event: QueryEvent | StepEvent) -> None:
        import rerun

        for camera, image in event.images.items():
            picture = rerun.EncodedImage(contents=jpeg(image), media_type="image/jpeg")
            self._log(event.robot, f"cameras/{camera}", picture)

    def _log(self, robot: str, name: str, value: Any) -> None:
        self._stream.log([robot, *name.split("/", 1)], value, strict=True)
