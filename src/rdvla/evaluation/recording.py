"""Records what happens in attended episodes as a dataset, in LeRobot's convention for interventions.

Workers record, each the episodes that it plays. An episode of the dataset appears whole or not at all, and
what is finished becomes a dataset however the evaluation ends. Imports no torch: workers import this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from rdvla.control import CAUSES, Cause
from rdvla.data import DatasetWriter
from rdvla.data.features import ACTION, ENVIRONMENT_STATE, KEYPOINTS, STATE, Feature
from rdvla.data.formats.lerobot_v3.recorder import EpisodeRecorder
from rdvla.data.spec import DatasetSpec
from rdvla.errors import ConfigError, DatasetError
from rdvla.evaluation.config import EvaluationConfig
from rdvla.rollout import Decision, Environment, EpisodeJob, Opened, Recorder, Recording, TimeStep
from rdvla.simulation.demonstrations.recording import frame_features
from rdvla.simulation.environment import SimulatedTask

INTERVENTION = "intervention"  # LeRobot's name
CAUSE = "intervention_cause"
CODES: dict[Cause | None, int] = {None: 0, **{cause: code for code, cause in enumerate(CAUSES, start=1)}}


def intervention_features(action: Feature) -> dict[str, Feature]:
    """Return what recorded frames say of who acted; `action` is the declaration of the action."""
    one: dict[str, Any] = {"shape": (1,), "names": None}
    return {
        INTERVENTION: {"dtype": "bool", **one},
        CAUSE: {"dtype": "int64", **one},
        "policy_action": action,
        "uncertainty": {"dtype": "float32", **one},
        "depth": {"dtype": "int64", **one},
        "help_requested": {"dtype": "bool", **one},
    }


class AttendedRecorder:
    """Records an attended episode, or those parts of it that are to be recorded: a `Recorder`."""

    def __init__(self, writer: DatasetWriter, source: Mapping[str, Any], instruction: str) -> None:
        self._writer, self._source, self._instruction = writer, source, instruction
        self._number: int | None = None  # of the dataset's episode that is being recorded
        self._open = ExitStack()
        self._episode: EpisodeRecorder | None = None
        self._frame: tuple[dict[str, Any], dict[str, NDArray[np.uint8]]] | None = None

    def before_step(self, now: TimeStep[Environment], decision: Decision, index: int) -> None:
        """Take what is seen before the action, who acts, and what the policy wanted."""
        origin = decision.origin
        assert origin is not None  # every decision of an attended episode has one
        if origin.recorded_as != self._number:
            self.finish()
            self._begin(origin.recorded_as, now.step)
        if self._episode is None:
            return
        env = now.environment
        assert isinstance(env, SimulatedTask)  # others have been refused
        values = {
            STATE: now.state,
            ENVIRONMENT_STATE: env.environment_state(),
            KEYPOINTS: env.keypoints().ravel(),
            ACTION: np.clip(decision.actions[index], -1, 1),  # as `SimulatedTask` executes it
            INTERVENTION: origin.intervention,
            CAUSE: CODES[origin.cause],
            "policy_action": origin.policy_actions[index],
            "uncertainty": np.float32(origin.uncertainty),
            "depth": origin.depth,
            "help_requested": origin.help_requested,
        }
        self._frame = values, now.images

    def after_step(self, now: TimeStep[Environment], *, ended: bool) -> None:
        """Add the frame, with whether it led to success."""
        if self._episode is not None and self._frame is not None:
            values, images = self._frame
            success = {"next.success": now.success, "next.reward": np.float32(now.success)}
            self._episode.add(values | success, images)
        if ended:
            self.finish()

    def finish(self) -> None:
        """Complete the episode that is being recorded, if any."""
        self._episode = self._number = None
        self._open.close()

    def discard(self) -> None:
        """Throw away the episode that is being recorded, if any."""
        if self._episode is not None:
            self._episode.discard()
        self.finish()

    def _begin(self, number: int | None, step: int) -> None:
        self._number = number
        if number is not None:
            source = {**self._source, "first_step": step}
            recorded = self._writer.record(self._instruction, number=number, source=source)
            self._episode = self._open.enter_context(recorded)


@dataclass(frozen=True)
class RecordAttended:
    """Makes recorders in workers: a `MakeRecorder`."""

    writer: DatasetWriter
    policy: Mapping[str, Any]  # which one acted, for the record

    @contextmanager
    def __call__(self, job: EpisodeJob, environment: Environment) -> Iterator[Recorder[Environment]]:
        """Record an episode; if it raises, what is complete is kept."""
        source = {
            "env": job.env,
            "task": job.task,
            "scene_seed": job.seed,
            "stop": job.setting.stop,
            "execution": job.setting.execution,
            **self.policy,
        }
        recorder = AttendedRecorder(self.writer, source, environment.instruction)
        try:
            yield recorder
        except BaseException:
            recorder.discard()
            raise
        recorder.finish()


@contextmanager
def recording(
    config: EvaluationConfig, opened: Mapping[str, Opened], *, fingerprint: str, console: Console
) -> Iterator[Recording | None]:
    """Record an evaluation if it is asked for; the dataset is complete at the end, however that comes.

    Args:
        config: names the dataset; one that exists is added to.
        opened: the environments that are played; none: nothing is.
        fingerprint: of the policy's weights.
        console: for what was recorded.

    Raises:
        ConfigError: the environments cannot share a dataset.
        DatasetError: the dataset exists and holds something else, or cannot be read.
    """
    if not config.record or not opened:
        yield None
        return
    writer = _open_writer(Path(config.record), _spec(config, opened))
    first = max(writer.finished(), default=-1) + 1
    policy = {"policy": config.policy_label, "fingerprint": fingerprint}
    try:
        yield Recording(RecordAttended(writer, policy), count(first), config.record_autonomous)
    finally:
        _complete(writer, config, console)


def _complete(writer: DatasetWriter, config: EvaluationConfig, console: Console) -> None:
    episodes = len(writer.finished())
    if not episodes:
        writer.discard()
        console.print(f"nothing was recorded, so {writer.root} is as it was", highlight=False)
        return
    root = writer.finalize()
    last = config.seed + config.episodes - 1
    console.print(
        f"recorded: {root} ({episodes} new episodes). They show scenes {config.seed} to {last}: measure a "
        "policy that is trained on them on others (--seed)",
        highlight=False,
    )


def _open_writer(root: Path, spec: DatasetSpec) -> DatasetWriter:
    if not root.exists():
        return DatasetWriter.create(
            root,
            fps=spec.fps,
            features=spec.features,
            cameras=list(spec.cameras),
            image_size=spec.cameras,
            robot_type=spec.robot_type,
            rendering=spec.rendering,
        )
    writer = DatasetWriter.append(root)
    different = writer.spec.differences(spec)
    if different:
        raise DatasetError(
            f"{root} has other {', '.join(different)} than this evaluation records: choose another --record"
        )
    return writer


@dataclass(frozen=True)
class _Sizes:
    """What `frame_features` asks of an environment, from what it has shown."""

    state_size: int
    state_names: tuple[str, ...]
    action_size: int
    action_names: tuple[str, ...]
    environment_state_size: int
    num_keypoints: int
    cameras: tuple[str, ...]


def _spec(config: EvaluationConfig, opened: Mapping[str, Opened]) -> DatasetSpec:
    specs = {env: _spec_of(env, config, shown) for env, shown in opened.items()}
    (first, spec), *others = specs.items()
    for env, other in others:
        different = spec.differences(other)
        if different:
            raise ConfigError(
                f"record: {first} and {env} have other {', '.join(different)} and cannot share a dataset: "
                "record them one after the other"
            )
    return spec


def _spec_of(env: str, config: EvaluationConfig, shown: Opened) -> DatasetSpec:
    facts = (shown.action_size, shown.environment_state_size, shown.num_keypoints, shown.control_hz)
    if None in facts:
        raise ConfigError(f"record: {env} does not say what a dataset needs; it must be a SimulatedTask")
    sizes = _Sizes(
        state_size=shown.state_size,
        state_names=shown.names.get("state", ()),
        action_size=shown.action_size or 0,
        action_names=shown.names.get("action", ()),
        environment_state_size=shown.environment_state_size or 0,
        num_keypoints=shown.num_keypoints or 0,
        cameras=tuple(shown.images),
    )
    features = frame_features(sizes)
    return DatasetSpec(
        fps=round(shown.control_hz or 0),
        features={**features, **intervention_features(features[ACTION])},
        cameras=shown.images,
        robot_type=shown.robot_type,
        rendering=config.rendering,
    )
