"""The training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator  # type: ignore[import-untyped, unused-ignore]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped, unused-ignore]
from rich.console import Console
from torch import Tensor

from rdvla.configuration import encode_config
from rdvla.data import split_episodes
from rdvla.errors import ConfigError
from rdvla.training.batches import Batch, BatchSource, non_finite_rows
from rdvla.training.checkpoint import Best, Checkpoint, CheckpointStore
from rdvla.training.config import TrainConfig
from rdvla.training.ema import ExponentialMovingAverage
from rdvla.training.errors import NonFiniteLossError
from rdvla.training.export import save_policy
from rdvla.training.features import frozen_features
from rdvla.training.interrupt import StopRequest
from rdvla.training.logging import MetricsLog
from rdvla.training.objectives import Objective, make_objective
from rdvla.training.optimizer import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    trainable_parameters,
)
from rdvla.training.progress import TrainingProgress
from rdvla.training.run_directory import RunDirectory
from rdvla.training.sampler import Draw, Sampler, depth_distribution
from rdvla.training.schedule import WarmupCosine
from rdvla.training.setup import build_policy, changing_tensors, fixed_weights, load_weights, open_dataset
from rdvla.training.validation import evenly_spread, validate


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    finished: bool  # False: stopped by Ctrl-C or SIGTERM, a checkpoint is there
    step: int  # updates done
    policy_dir: Path | None  # the trained policy, where the run finished
    resume_command: str  # goes on with a run that did not finish


@dataclass(frozen=True)
class Update:
    """Figures of one update."""

    depth: int  # r, iterations
    grad_norm: float  # before clipping
    learning_rate: float
    seconds: float  # it took
    scalars: dict[str, float]  # of the objective; `loss` is one


class Trainer:
    """One run: `Trainer(config).run()`.

    Every random draw of an update depends on (seed, step) alone, so weights, optimiser and average are all
    that a resumed run needs to go on exactly as if it had not stopped.

    Raises:
        ConfigError: the configuration does not fit the dataset, the run directory, or the run that is
        resumed.
        DatasetError: the dataset is missing or damaged.
        CheckpointError: the checkpoint to resume from is damaged.
    """

    def __init__(self, config: TrainConfig, *, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console()
        torch.set_num_threads(config.threads)
        self.accelerator = _accelerator(config)
        self.dataset = open_dataset(config)
        self.policy = build_policy(config, self.dataset.statistics).to(self.accelerator.device)
        self.run_directory = RunDirectory(config)
        self.run_directory.check_origin(
            {"dataset": self.dataset.fingerprint(), "fixed weights": fixed_weights(self.policy)}
        )
        training, held_out = split_episodes(
            self.dataset, config.data.validation_fraction, config.data.split_seed
        )
        self.sampler = Sampler(
            self._rows(training),
            batch_size=config.batch_size,
            seed=config.seed,
            depth=depth_distribution(config.depth, head_mean=config.policy.head.mean_depth),
        )
        self.validation_rows = evenly_spread(self._rows(held_out), at_most=config.validation.max_samples)
        features = frozen_features(
            self.policy,
            self.dataset,
            folder=self.run_directory.cache,
            batch_size=config.data.cache_batch_size,
            memory_limit=int(config.data.memory_limit_gb * 1e9),
            console=self.console,
        )
        self.source = BatchSource(
            self.dataset, features, policy=self.policy, image_shift=config.data.image_shift
        )
        self.objective: Objective = make_objective(config)
        self.parameters = trainable_parameters(self.policy)
        self.optimizer = make_optimizer(self.parameters, config.optimizer)
        self.schedule = WarmupCosine(
            steps=config.steps,
            warmup_steps=config.optimizer.warmup_steps,
            final_fraction=config.optimizer.final_fraction,
        )
        self.ema = ExponentialMovingAverage(self.parameters, decay=config.ema.decay, warmup=config.ema.warmup)
        self.store = CheckpointStore(self.run_directory.checkpoints, keep=config.checkpoints.keep)
        self.step = 0  # updates done
        self.seconds = 0.0  # of training, over all resumptions
        self.best: Best | None = None
        self._resume()

    # --- the loop ---

    def run(self) -> TrainResult:
        """Train to the last step, or until Ctrl-C or SIGTERM, and save the policy.

        Raises:
            NonFiniteLossError: the loss or its gradient is NaN or infinite; see there.
        """
        log = MetricsLog(self.run_directory.path, resumed_step=self.step)
        progress = TrainingProgress(self.console, steps=self.config.steps, start=self.step)
        self.policy.train()
        try:
            with StopRequest() as stop, progress:
                self._loop(log, progress, stop)
        finally:
            log.close()
        finished = self.step == self.config.steps
        if not finished:
            self.console.print(
                f"Stopped after step {self.step}. Go on with:\n  {self.run_directory.resume_command()}",
                soft_wrap=True,
            )
        return TrainResult(
            finished=finished,
            step=self.step,
            policy_dir=self._export() if finished else None,
            resume_command=self.run_directory.resume_command(),
        )

    def _loop(self, log: MetricsLog, progress: TrainingProgress, stop: StopRequest) -> None:
        window: list[Update] = []
        while self.step < self.config.steps and not stop.requested:
            window.append(self.update(self.sampler.draw(self.step)))
            self.step += 1
            self.seconds += window[-1].seconds
            if self._due(self.config.log_every):
                self._log(log, progress, window)
                window = []
            improved = self._due(self.config.validation.every) and self._validate(log, progress)
            if improved or self._due(self.config.checkpoints.every):
                self._save_checkpoint(log)
        if stop.requested and self.step not in self.store.steps():
            self._save_checkpoint(log)

    def update(self, draw: Draw) -> Update:
        """Run the update that `draw` describes.

        Raises:
            NonFiniteLossError: before anything is changed by a loss or a gradient that is not finite.
        """
        started = time.perf_counter()
        torch.manual_seed(draw.generator.initial_seed())  # for a model that draws by itself, as dropout does
        batch = self.source.batch(draw.rows, generator=draw.generator)
        with self.accelerator.autocast():
            loss = self.objective.loss(self.policy, batch, depth=draw.depth, generator=draw.generator)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss.total)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.optimizer.clip_norm)
        total, grad_norm, *scalars = torch.stack([loss.total.detach(), norm, *loss.scalars.values()]).tolist()
        if not (math.isfinite(total) and math.isfinite(grad_norm)):
            raise NonFiniteLossError(self._describe_failure(draw, batch, loss=total, grad_norm=grad_norm))
        learning_rate = self.config.optimizer.learning_rate * self.schedule.factor(draw.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.ema.update(draw.step)
        return Update(
            depth=draw.depth,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            seconds=time.perf_counter() - started,
            scalars=dict(zip(loss.scalars, scalars, strict=True)),
        )

    # --- what happens between updates ---

    def _due(self, every: int) -> bool:
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)

    def _log(self, log: MetricsLog, progress: TrainingProgress, window: list[Update]) -> None:
        scalars = {
            name: sum(update.scalars[name] for update in window) / len(window) for name in window[-1].scalars
        }
        milliseconds = 1000 * sum(update.seconds for update in window) / len(window)
        extra = {
            "depth": sum(update.depth for update in window) / len(window),
            "grad_norm": sum(update.grad_norm for update in window) / len(window),
            "learning_rate": window[-1].learning_rate,
            "ms_per_step": milliseconds,
        }
        log.write(step=self.step, kind="train", scalars=scalars | extra)
        progress.update(
            step=self.step, loss=scalars["loss"], depth=window[-1].depth, milliseconds=milliseconds
        )

    def _validate(self, log: MetricsLog, progress: TrainingProgress) -> bool:
        """Validate the averaged weights; return whether they are the best so far."""
        if len(self.validation_rows) == 0:
            return False
        with self.ema.applied():
            figures = validate(
                self.policy,
                self.objective,
                self.source,
                rows=self.validation_rows,
                batch_size=self.config.validation.batch_size,
                seed=self.config.seed,
            )
        log.write(step=self.step, kind="validation", scalars=figures)
        progress.validation(step=self.step, figures=figures)
        deciding = list(figures.values())[-1]
        if self.best is not None and deciding >= self.best.loss:
            return False
        self.best = Best(step=self.step, loss=deciding)
        return True

    def _save_checkpoint(self, log: MetricsLog) -> None:
        log.flush()
        self.store.save(
            Checkpoint(
                step=self.step,
                seconds=self.seconds,
                best=self.best,
                weights=changing_tensors(self.policy),
                ema=self.ema.state_dict(),
                optimizer=optimizer_tensors(self.optimizer, self.parameters),
            )
        )

    def _resume(self) -> None:
        if not self.config.resume:
            return
        checkpoint = self.store.load_latest(fall_back=self.config.resume_from_previous)
        if checkpoint is None:
            return
        load_weights(self.policy, checkpoint)
        self.ema.load_state_dict(checkpoint.ema)
        load_optimizer_tensors(self.optimizer, self.parameters, checkpoint.optimizer)
        self.step, self.seconds, self.best = checkpoint.step, checkpoint.seconds, checkpoint.best
        self.console.print(f"Going on after step {self.step} of {self.config.steps}.")

    def _export(self) -> Path:
        provenance = {
            "steps": self.step,
            "training_seconds": round(self.seconds, 1),
            "dataset": {"root": self.config.dataset, "fingerprint": self.dataset.fingerprint()},
            "config": encode_config(self.config),
        }
        with self.ema.applied():
            save_policy(self.policy, self.run_directory.policy, provenance=provenance)
        return self.run_directory.policy

    def _rows(self, episodes: list[int]) -> Tensor:
        if not episodes:
            return torch.zeros(0, dtype=torch.int64)
        return torch.from_numpy(self.dataset.subset(episodes).sample_index)

    def _describe_failure(self, draw: Draw, batch: Batch, *, loss: float, grad_norm: float) -> str:
        rows = draw.rows.tolist()
        episodes = sorted(set(self.dataset.episode_of(rows).tolist()))
        latest = self.store.named("latest")
        suspects = non_finite_rows(batch)
        return (
            f"The loss is {loss} and the norm of its gradient {grad_norm} at step {draw.step + 1} "
            f"(depth {draw.depth}); the weights were not updated with it.\n"
            f"Batch: dataset rows {rows} of episodes {episodes}; "
            f"{'; '.join(suspects) or 'all of its inputs are finite'}.\n"
            f"Last good checkpoint: {latest or 'none yet'}. "
            "Look at those rows, or start again with a lower optimizer.learning_rate."
        )


def train(config: TrainConfig, *, console: Console | None = None) -> TrainResult:
    """Train a policy as `config` says; with `resume`, go on with the run in `config.output_dir`.

    Raises:
        as `Trainer` and `Trainer.run`.
    """
    return Trainer(config, console=console).run()


def _accelerator(config: TrainConfig) -> Accelerator:
    # Accelerate keeps its device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    if accelerator.num_processes > 1:
        raise ConfigError("A run trains in one process; start it without a multi-process launcher.")
    return accelerator
