"""The training loop."""

from __future__ import annotations

import math
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from rdvla.config import encode_config
from rdvla.data import split_episodes
from rdvla.data.locate import hub_ids
from rdvla.files import sole_user
from rdvla.training.batches import BatchSource, Draw, Sampler, depth_distribution, evenly_spread
from rdvla.training.checkpoints import Best, CheckpointStore
from rdvla.training.config import TrainConfig
from rdvla.training.features import CacheOptions, frozen_features
from rdvla.training.inference import describe, describe_size, named
from rdvla.training.metrics import MetricsLog, TrainingProgress, Update, averaged
from rdvla.training.non_finite import NonFiniteLossError, describe_failure
from rdvla.training.objectives import make_objective, validate
from rdvla.training.optimization import TrainingState, fixed_weights
from rdvla.training.run_directory import RunDirectory, save_policy
from rdvla.training.setup import build_policy, load_source, make_accelerator, open_dataset


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    finished: bool  # False: stopped by Ctrl-C or SIGTERM, a checkpoint is there
    step: int  # updates done
    policy_dir: Path | None  # the trained policy; None: the run did not finish
    resume_command: str  # of a shell; goes on with a run that did not finish


class Trainer:
    """One run: `Trainer(config).run()`.

    Every random draw of an update depends on (seed, step) alone. So a resumed run needs only weights,
    optimiser and average to go on as if it had not stopped.

    Raises:
        ConfigError: the configuration does not fit the dataset, the run directory, or the run to resume.
        DatasetError: the dataset is missing or damaged.
        CheckpointError: the checkpoint to resume from is damaged.
    """

    def __init__(self, config: TrainConfig, *, console: Console | None = None) -> None:
        self.console = console or Console()
        torch.set_num_threads(config.threads)
        self.accelerator = make_accelerator(config)
        source = load_source(config)
        self.dataset, config = open_dataset(named(config), source)
        self.config = config
        self._show([("note", note) for note in self.dataset.notes] + describe(config, self.dataset))
        self.policy = build_policy(config, self.dataset.statistics, source).to(self.accelerator.device)
        self._show([("policy", describe_size(self.policy))])
        self.policy.backbone.check_instructions(self.dataset.tasks)
        self.run_directory = RunDirectory(config)
        self.run_directory.check_origin(
            {
                "dataset": self.dataset.fingerprint(),
                "fixed weights": fixed_weights(self.policy),
                "published files": self.policy.published_files(),
            },
            older={"fixed weights": fixed_weights(self.policy, used=("",))},
        )
        training, held_out = split_episodes(
            self.dataset, config.data.validation_fraction, config.data.split_seed
        )
        self.sampler = Sampler(
            self._frames(training),
            batch_size=config.batch_size,
            seed=config.seed,
            depth=depth_distribution(config.depth, head_mean=config.policy.head.mean_training_depth),
        )
        self.validation_frames = evenly_spread(self._frames(held_out), at_most=config.validation.max_samples)
        features = frozen_features(
            self.policy,
            self.dataset,
            CacheOptions(
                folder=self.run_directory.cache,
                batch_size=config.data.cache_batch_size,
                memory_limit=int(config.data.memory_limit_gb * 1e9),
                console=self.console,
            ),
        )
        self.source = BatchSource(
            self.dataset,
            features,
            policy=self.policy,
            image_shift=config.data.image_shift,
            augmentation=config.data.augmentation,
        )
        self.objective = make_objective(config, self.dataset, self.source)
        self.state = TrainingState(self.policy, config)
        self.store = CheckpointStore(self.run_directory.checkpoints, keep=config.checkpoints.keep)
        self._resume()

    # --- the loop ---

    def run(self) -> TrainResult:
        """Train to the last step, or until Ctrl-C or SIGTERM, and save the policy.

        Raises:
            NonFiniteLossError: the loss or its gradient is NaN or infinite.
        """
        log = MetricsLog(self.run_directory.path, resumed_step=self.state.step)
        progress = TrainingProgress(self.console, steps=self.config.steps, start=self.state.step)
        self.policy.train()
        try:
            with StopRequest() as stop, progress:
                self._loop(log, progress, stop)
        finally:
            log.close()
        finished = self.state.step == self.config.steps
        if not finished:
            self.console.print(
                f"Stopped after step {self.state.step}. Go on with:\n  {self.run_directory.resume_command()}",
                soft_wrap=True,
            )
        return TrainResult(
            finished=finished,
            step=self.state.step,
            policy_dir=self._export() if finished else None,
            resume_command=self.run_directory.resume_command(),
        )

    def _loop(self, log: MetricsLog, progress: TrainingProgress, stop: StopRequest) -> None:
        window: list[Update] = []
        while self.state.step < self.config.steps and not stop.requested:
            window.append(self.update(self.sampler.draw(self.state.step)))
            self.state.step += 1
            self.state.seconds += window[-1].seconds
            if self._due(self.config.log_every):
                self._log(log, progress, window)
                window = []
            improved = self._due(self.config.validation.every) and self._validate(log, progress)
            if improved or self._due(self.config.checkpoints.every):
                self._save_checkpoint(log)
        if stop.requested and self.state.step not in self.store.steps():
            self._save_checkpoint(log)

    def update(self, draw: Draw) -> Update:
        """Run the update that `draw` describes.

        Raises:
            NonFiniteLossError: before anything is changed by a loss or a gradient that is not finite.
        """
        started = time.perf_counter()
        torch.manual_seed(draw.generator.initial_seed())  # for what draws by itself, such as dropout
        batch = self.source.batch(draw.frames, generator=draw.generator)
        with self.accelerator.autocast():
            loss = self.objective.loss(self.policy, batch, draw)
        self.state.clear_gradient()
        self.accelerator.backward(loss.total)
        norm = self.state.clip_gradient()
        total, grad_norm, *scalars = torch.stack([loss.total.detach(), norm, *loss.scalars.values()]).tolist()
        if not (math.isfinite(total) and math.isfinite(grad_norm)):
            latest = self.store.named("latest")
            raise NonFiniteLossError(
                describe_failure(draw, batch, self.dataset, loss=total, grad_norm=grad_norm, latest=latest)
            )
        return Update(
            depth=draw.depth,
            grad_norm=grad_norm,
            learning_rate=self.state.follow_gradient(draw.step),
            seconds=time.perf_counter() - started,
            scalars=dict(zip(loss.scalars, scalars, strict=True)),
        )

    # --- what happens between updates ---

    def _show(self, lines: list[tuple[str, str]]) -> None:
        for title, text in lines:
            self.console.print(f"{title:<16}{text}", soft_wrap=True, highlight=False, markup=False)

    def _due(self, every: int) -> bool:
        return self.state.step == self.config.steps or (every > 0 and self.state.step % every == 0)

    def _log(self, log: MetricsLog, progress: TrainingProgress, window: list[Update]) -> None:
        figures = averaged(window)
        log.write(step=self.state.step, kind="train", scalars=figures)
        progress.update(
            step=self.state.step,
            loss=figures["loss"],
            depth=window[-1].depth,
            milliseconds=figures["ms_per_step"],
        )

    def _validate(self, log: MetricsLog, progress: TrainingProgress) -> bool:
        """Validate the averaged weights; return whether they are the best so far."""
        if len(self.validation_frames) == 0:
            return False
        with self.state.ema.applied():
            figures = validate(
                self.policy,
                self.objective,
                self.source,
                frames=self.validation_frames,
                batch_size=self.config.validation.batch_size,
                seed=self.config.seed,
            )
        log.write(step=self.state.step, kind="validation", scalars=figures)
        progress.validation(step=self.state.step, figures=figures)
        deciding = list(figures.values())[-1]
        if self.state.best is not None and deciding >= self.state.best.loss:
            return False
        self.state.best = Best(step=self.state.step, loss=deciding)
        return True

    def _save_checkpoint(self, log: MetricsLog) -> None:
        log.flush()
        self.store.save(self.state.checkpoint())

    def _resume(self) -> None:
        if not self.config.resume:
            return
        checkpoint = self.store.load_latest(fall_back=self.config.resume_from_previous)
        if checkpoint is None:
            return
        self.state.restore(checkpoint)
        self.console.print(f"Going on after step {self.state.step} of {self.config.steps}.")

    def _export(self) -> Path:
        provenance = {
            "steps": self.state.step,
            "training_seconds": round(self.state.seconds, 1),
            "dataset": {
                "root": self.config.dataset,
                "on_hub": hub_ids(self.config.dataset),
                "fingerprint": self.dataset.fingerprint(),
            },
            "notes": self.dataset.notes,
            "instructions": list(self.dataset.tasks),
            "config": encode_config(self.config),
        }
        with self.state.ema.applied():
            save_policy(self.policy, self.run_directory.policy, provenance=provenance)
        return self.run_directory.policy

    def _frames(self, episodes: list[int]) -> Tensor:
        if not episodes:
            return torch.zeros(0, dtype=torch.int64)
        return torch.from_numpy(self.dataset.subset(episodes).sample_index)


def train(config: TrainConfig, *, console: Console | None = None) -> TrainResult:
    """Train a policy as `config` says; with `resume`, go on with the run in `config.output_dir`.

    Raises:
        RDVLAError: another process trains there, or as `Trainer` and `Trainer.run`.
    """
    config = named(config)
    with sole_user(Path(config.output_dir)):
        return Trainer(config, console=console).run()


class StopRequest:
    """While active, the first SIGINT or SIGTERM sets `requested`; a second SIGINT interrupts at once.

    An exception raised inside an optimiser step would leave half-updated weights, so the loop asks instead.
    Outside the main thread, where Python delivers no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
