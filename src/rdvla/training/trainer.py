"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from rdvla.config import encode_config
from rdvla.data import split_episodes
from rdvla.data.older_fingerprint import older_fingerprint
from rdvla.errors import DatasetError, RDVLAError
from rdvla.heads import Loss
from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import Share
from rdvla.training.acceleration import accelerate_policy
from rdvla.training.arithmetic import arithmetic
from rdvla.training.batches import BatchSource, Draw, Sampler, depth_distribution, evenly_spread
from rdvla.training.checkpoints import Checkpoint, CheckpointStore
from rdvla.training.config import TrainConfig
from rdvla.training.features import CacheOptions, frozen_features
from rdvla.training.inference import complete, describe, describe_size, named
from rdvla.training.interruption import StopRequest
from rdvla.training.messages import (
    COMPUTED_ELSEWHERE,
    UNITS_ANEW,
    finish_lines,
    resume_lines,
    stop_lines,
    titled,
    unreadable,
    unwritable,
)
from rdvla.training.metrics import MetricsLog, NoLog, TrainingProgress, Update, averaged
from rdvla.training.non_finite import NonFiniteLossError, describe_failure
from rdvla.training.objectives import make_objective, total_of, validate
from rdvla.training.optimization import TrainingState, fixed_weights, sharded
from rdvla.training.policy_export import PolicyExport, provenance_of
from rdvla.training.prefetch import Ahead, prefetching
from rdvla.training.rank_process import process_of
from rdvla.training.ranks import Ranks
from rdvla.training.run_directory import RunDirectory, flatten
from rdvla.training.sampling import choose_frames, within_window
from rdvla.training.schedule import Length
from rdvla.training.setup import build_policy, load_source, make_accelerator, open_dataset, wrapped
from rdvla.training.throughput import measure_throughput
from rdvla.training.trackers import check_installed, open_trackers


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    finished: bool  # False: stopped by a signal, a checkpoint is there
    step: int  # updates done
    policy_dir: Path | None  # the trained policy; None: the run did not finish
    resume_command: str  # of a shell; goes on with a run that did not finish
    signal: int | None = None  # that stopped it, if this process heard one


class Trainer:
    """One run: `Trainer(config).run()`.

    Every random draw of an update depends on (seed, step) alone. So a resumed run needs only weights,
    optimiser and average to go on as if it had not stopped.

    Raises:
        MissingExtraError: the package of a tracker is not installed.
        ConfigError: the configuration does not fit the dataset, the run directory, or the run to resume.
        DatasetError: the dataset is missing or damaged.
        CheckpointError: the checkpoint to resume from is damaged.
    """

    def __init__(self, config: TrainConfig, *, console: Console | None = None) -> None:
        self.console = console or Console()
        config = named(config)
        self.accelerator = make_accelerator(config)
        torch.set_num_threads(config.threads)  # of each rank; Accelerate chooses others
        self.ranks = Ranks(self.accelerator)
        self.ranks.check_options(config)
        self.run_directory = self.ranks.from_first(lambda: RunDirectory(config))
        self.store = CheckpointStore(self.run_directory.checkpoints, keep=config.checkpoints.keep)
        with self.ranks.together(), self.run_directory.naming_what_moved(config):
            check_installed(config.trackers)
            source = load_source(config)
            self.dataset, config = open_dataset(config, source)
            fingerprint = self.dataset.fingerprint()
        self.ranks.check_same("dataset", fingerprint)
        self.config = config
        self._say(titled([("note", note) for note in self.dataset.notes]))
        self._say(titled(describe(config, self.dataset)))
        trained_in = self.ranks.from_first(self.run_directory.statistics)
        if trained_in is None and self.run_directory.is_trained:
            self._say(titled([("note", UNITS_ANEW)]))
        with self.ranks.together():
            self.policy = build_policy(config, self.dataset.statistics, source, trained_in=trained_in)
            self.policy.to(self.accelerator.device)
            self.policy.backbone.check_instructions(self.dataset.tasks)
        self._say(titled([("policy", describe_size(self.policy))]))
        self.run_directory = self.ranks.from_first(lambda: self._begun(source, fingerprint))
        training, held_out = split_episodes(
            self.dataset, config.data.validation_fraction, config.data.split_seed
        )
        if not held_out and config.data.validation_fraction > 0:
            self._say(titled([("validation", "none: no task has two episodes, so none is held out")]))
        self.choice = choose_frames(config, self.dataset, self._frames(training))
        self.sampler = Sampler(
            self.choice,
            batch_size=config.batch_size,
            seed=config.seed,
            depth=depth_distribution(config.depth, head_mean=config.policy.head.mean_training_depth),
        )
        self.validation_frames = evenly_spread(
            within_window(config.data, self.dataset, self._frames(held_out)),
            at_most=config.validation.max_samples,
        )
        with self.ranks.together():  # all fill the caches
            features = frozen_features(
                self.policy,
                self.dataset,
                CacheOptions(
                    folder=self.run_directory.cache,
                    batch_size=config.data.cache_batch_size,
                    memory_limit=int(config.data.memory_limit_gb * 1e9),
                    console=self.console,
                ),
                validation=self.validation_frames.numpy(),
            )
        self.source = BatchSource(
            self.dataset,
            features,
            policy=self.policy,
            image_shift=config.data.image_shift,
            augmentation=config.data.augmentation,
        )
        self.objective = make_objective(config, self.dataset, self.source)
        self.throughput = measure_throughput(
            config,
            self.policy,
            self.source.batch(self.sampler.draw(0).frames[:1]),
            losses=self.objective.losses,
            processes=self.accelerator.num_processes,
        )
        accelerate_policy(self.policy, config.compute)
        shares_weights = config.compute.shares_weights(processes=self.ranks.count)
        self.model = self.policy if shares_weights else wrapped(self.policy, self.accelerator)
        self.state = TrainingState(self.policy, config)
        self.export = PolicyExport(
            self.policy,
            self.run_directory.policy,
            chosen=config.checkpoints.policy if len(self.validation_frames) > 0 else "last",
            provenance=provenance_of(config, self.dataset),
        )
        self._resume()
        if shares_weights:
            self.state = sharded(self.state, self.policy, config)

    def _begun(self, source: RDVLAPolicy | None, fingerprint: Any) -> RunDirectory:
        self.run_directory.begin(
            self.config,
            {
                "dataset": fingerprint,
                "fixed weights": fixed_weights(self.policy),
                "published files": self.policy.published_files(),
            },
            statistics=self.policy.statistics,
            older={
                "dataset": older_fingerprint([member.root for member in self.dataset.mixture.members]),
                "fixed weights": fixed_weights(self.policy, used=("",)),
            },
            complete=lambda saved: complete(saved, self.dataset, None if source is None else source.config),
        )
        if elsewhere := self.run_directory.compared(arithmetic(self.accelerator.device)):
            self._say(titled([("note", COMPUTED_ELSEWHERE.format(elsewhere))]))
        return self.run_directory

    # --- the loop ---

    def run(self) -> TrainResult:
        """Train to the last step, or until Ctrl-C, SIGTERM or SIGHUP; `<run>/policy` follows the validations.

        Raises:
            NonFiniteLossError: the loss or its gradient is NaN or infinite.
            RDVLAError: something cannot be written, such as on a full disk; the last whole checkpoint stays.
        """
        try:
            stopped_by = self._train()
        except OSError as error:
            raise RDVLAError(unwritable(self, error)) from error
        finished = self.state.step == self.config.steps
        if self.ranks.is_first:
            self._say(finish_lines(self) if finished else stop_lines(self))
        return TrainResult(
            finished=finished,
            step=self.state.step,
            policy_dir=self.export.folder if finished else None,
            resume_command=self.run_directory.resume_command(),
            signal=stopped_by,
        )

    def _train(self) -> int | None:
        start = self.state.checkpoint()
        with self.ranks.together():
            log = self._open_log(start) if self.ranks.is_first else NoLog()
        progress = TrainingProgress(self.console, steps=self.config.steps, start=self.state.step)
        self.policy.train()
        try:
            # Shared-out weights are exchanged in checkpoints and validations too.
            with StopRequest() as stop, progress, self.ranks.in_contact():
                self._loop(log, progress, stop)
            return stop.signal
        except DatasetError as error:
            # Every process takes part in a checkpoint of several, and the others still train.
            if self.state.step not in self.store.steps() and self.ranks.count == 1:
                self._save_checkpoint(log)
            raise RDVLAError(unreadable(self, error)) from error
        finally:
            log.close()

    def _open_log(self, start: Checkpoint) -> MetricsLog:
        if self.state.step < self.config.steps:
            self.store.check_room(start)
        trackers = open_trackers(
            self.config.trackers,
            folder=self.run_directory.path,
            resumed_step=self.state.step,
            run_id=self.run_directory.run_id(),
            options=flatten(encode_config(self.config)),
        )
        return MetricsLog(self.run_directory.path, resumed_step=self.state.step, trackers=trackers)

    def _loop(self, log: MetricsLog, progress: TrainingProgress, stop: StopRequest) -> None:
        with prefetching(self.dataset, self.choice, batch_size=self.config.batch_size) as ahead:
            stopping = self._updates(log, progress, stop, ahead)
            # First of all, as whoever asked for the end may not wait for long.
            if stopping and self.ranks.from_first(lambda: self.state.step not in self.store.steps()):
                self._save_checkpoint(log)

    def _updates(self, log: MetricsLog, progress: TrainingProgress, stop: StopRequest, ahead: Ahead) -> bool:
        """Train to the last step, or until a rank is asked to stop; return whether one was."""
        window: list[Update] = []
        stopping = False
        while self.state.step < self.config.steps and not (stopping := self.ranks.any(wish=stop.requested)):
            ahead.before(self.state.step)
            window.append(self.update(self.sampler.draw(self.state.step)))
            self.state.step += 1
            self.state.seconds += window[-1].seconds
            progress.count(step=self.state.step, seconds=window[-1].seconds)
            if self._due(self.config.log_every):
                self._log(log, progress, window)
                window = []
            validated = self._due(self.config.validation.every)
            loss = self._validate(log, progress) if validated else None
            improved = loss is not None and self.state.improves(loss)
            if improved or self._due(self.config.checkpoints.every):
                self._save_checkpoint(log)
            if validated:
                with self.ranks.together():
                    writes = self.ranks.is_first
                    self.export.follow(self.state, loss=loss, improved=improved, writes=writes)
        return stopping

    def update(self, draw: Draw) -> Update:
        """Run the update that `draw` describes.

        Raises:
            NonFiniteLossError: before anything is changed by a loss or a gradient that is not finite.
        """
        started = time.perf_counter()
        self.state.clear_gradient()
        loss = self._add_gradients(draw)
        norm = self.state.clip_gradient()
        figures = self.ranks.add_up(torch.stack([loss.total, *loss.scalars.values()]))
        grad_norm, total, *scalars = torch.cat([norm.reshape(1), figures]).tolist()
        if not (math.isfinite(total) and math.isfinite(grad_norm)):
            batch, latest = self.source.batch(draw.frames), self.store.named("latest")
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

    def _add_gradients(self, draw: Draw) -> Loss:
        """Compute the gradient of an update, on all ranks; return the loss of what this rank computed."""
        *before, last = self.ranks.shares(len(draw.frames), steps=self.config.compute.accumulation_steps)
        with self.accelerator.no_sync(self.model) if before else nullcontext():
            losses = [self._add_gradient(draw, share) for share in before]
        return total_of([*losses, self._add_gradient(draw, last)])  # the last one exchanges what all added

    def _add_gradient(self, draw: Draw, share: Share | None) -> Loss:
        """Add the gradient of a share of an update's batch; return its loss, detached."""
        torch.manual_seed(draw.seed(share))  # for what draws by itself, such as dropout
        draw = replace(draw, generator=draw.generator.clone_state())  # all shares draw the same
        batch = self.source.batch(draw.frames, generator=draw.generator, share=share)
        with self.accelerator.autocast():
            loss = self.objective.loss(self.policy, batch, draw, forward=self.model)
        self.accelerator.backward(loss.total * self.ranks.count)  # of which the exchange takes the mean
        return Loss(loss.total.detach(), loss.scalars)

    # --- what happens between updates ---

    def _due(self, every: int) -> bool:
        return self.state.step == self.config.steps or (every > 0 and self.state.step % every == 0)

    def _log(self, log: MetricsLog, progress: TrainingProgress, window: list[Update]) -> None:
        figures = averaged(window) | self.throughput.figures(window)
        with self.ranks.together():
            log.write(step=self.state.step, kind="train", scalars=figures)
        progress.update(step=self.state.step, depth=window[-1].depth, figures=figures)

    def _validate(self, log: MetricsLog, progress: TrainingProgress) -> float | None:
        """Validate the averaged weights; return the figure that decides, None without held-out episodes."""
        if len(self.validation_frames) == 0:
            return None
        with self.state.averaged():
            figures = validate(
                self.policy,
                self.objective,
                self.source,
                frames=self.validation_frames,
                batch_size=self.config.validation.batch_size,
                seed=self.config.seed,
                ranks=self.ranks,
            )
        with self.ranks.together():
            log.write(step=self.state.step, kind="validation", scalars=figures)
        progress.validation(step=self.state.step, figures=figures)
        return list(figures.values())[-1]

    def _save_checkpoint(self, log: MetricsLog) -> None:
        checkpoint = self.state.checkpoint()
        with self.ranks.together():
            log.flush()
            if self.ranks.is_first:
                self.store.save(checkpoint)

    # --- going on ---

    def _resume(self) -> None:
        if not self.config.resume:
            return
        path = self.run_directory.path
        if not self.run_directory.resumes:
            self._say([f"There is no run in {path} to go on with: a new one starts there."])
            return
        with self.ranks.together():
            checkpoint = self.store.load_latest(fall_back=self.config.resume_from_previous)
        self.ranks.check_same("checkpoint", None if checkpoint is None else checkpoint.step)
        if checkpoint is None:
            self._say([f"The run in {path} has no checkpoint yet: it starts again with its first update."])
            return
        if not checkpoint.lengths:  # of an older version
            began = Length(start=0, steps=self.run_directory.began_with.steps)
            checkpoint = replace(checkpoint, lengths=(began,))
        with self.ranks.together():
            self.state.restore(checkpoint)
        self._say(resume_lines(self, before=checkpoint.lengths[-1]))
        with self.ranks.together():
            if self.ranks.is_first:
                self.export.settle(self.state, store=self.store, latest=checkpoint, steps=self.config.steps)

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)

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
    with process_of(Path(config.output_dir)):
        return Trainer(config, console=console).run()
