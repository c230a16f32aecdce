"""An rdvla policy as LeRobot trains and runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import lerobot
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

import rdvla
from lerobot_policy_rdvla.configuration_rdvla import RDVLAConfig
from rdvla.errors import ConfigError, InputError
from rdvla.policy import TRAINING, PolicyConfig
from rdvla.policy.batch import Batch
from rdvla.policy.files import find_policy_folder
from rdvla.policy.lerobot import ACTION, POLICY_TYPE, STATE
from rdvla.policy.records import trained_instructions
from rdvla.processing import Statistics
from rdvla.processing.cameras import camera_key
from rdvla.training.optimization import parameter_groups, trainable_parameters
from rdvla.types import Observation

IS_PAD = "action_is_pad"
CORE = "core."  # in front of the weights' names in this module


class RDVLAPolicy(PreTrainedPolicy):
    """rdvla's policy between LeRobot's processors, in normalised units.

    Args:
        config: of the policy.
        dataset_meta: metadata of the dataset to train on; what the configuration leaves open comes from
            there.
        unused: more that LeRobot passes.

    Raises:
        RDVLAError: the configuration leaves something open, or the dataset contradicts it.
    """

    config_class = RDVLAConfig
    name = POLICY_TYPE

    def __init__(self, config: RDVLAConfig, dataset_meta: Any = None, **unused: Any) -> None:  # noqa: ARG002  # LeRobot passes more
        super().__init__(config)
        if dataset_meta is not None:
            config.take_from_dataset(Path(dataset_meta.root))
        config.validate_features()
        self.core = rdvla.RDVLAPolicy(*_in_normalized_units(config.policy_config()))
        for parameter in self.core.parameters():
            # LeRobot's checkpoints hold no optimiser state of weights that lie channels last.
            parameter.data = parameter.data.contiguous()
        self._updates = 0
        self._trained_on = None if dataset_meta is None else _training_record(dataset_meta)
        if config.freeze_backbone:
            self.core.freeze_backbone()

    # --- training ---

    def forward(
        self,
        batch: Mapping[str, Any],
        reduction: str = "mean",
        *,
        generator: torch.Generator | None = None,
        depth: int | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of rdvla's training: L1 after a random number of iterations, and figures to log.

        Gradients flow through the last iterations only (`head.backprop_depth`).

        Args:
            batch: B samples, from the preprocessor.
            reduction: `mean` alone.
            generator: of S_0 and noise; seeded from torch's own if not given.
            depth: iterations; drawn from `config.depth` if not given.

        Raises:
            ConfigError: another reduction is asked for.
        """
        from rdvla.training.batches import Draw, depth_distribution
        from rdvla.training.objectives import Objective

        if reduction != "mean":
            raise ConfigError("rdvla's loss is the mean of a batch: leave --sample_weighting out")
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        if depth is None:
            mean = self.config.head.mean_training_depth
            depth = depth_distribution(self.config.depth, head_mean=mean).sample(generator)
        objective = Objective(proprio_noise=self.config.proprio_noise)
        draw = Draw(step=0, frames=torch.empty(0, dtype=torch.int64), depth=depth, generator=generator)
        loss = objective.loss(self.core, self._training_batch(batch), draw)
        figures = {name: float(value) for name, value in loss.scalars.items() if name != "loss"}
        return loss.total, {**figures, "depth": float(depth)}

    def update(self) -> None:
        """Count an update; LeRobot calls this after each one."""
        self._updates += 1

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Return the groups of `rdvla train`: matrices decay, vectors and scalars do not."""
        decay = self.config.optimizer.weight_decay
        return parameter_groups(trainable_parameters(self.core), weight_decay=decay)

    # --- acting ---

    def predict_action_chunk(self, batch: Mapping[str, Any], noise: Tensor | None = None, **_: Any) -> Tensor:
        """Return action chunks (B, K, A) in normalised units.

        Args:
            batch: B observations, from the preprocessor.
            noise: S_0, (B, K, D); drawn if not given.
        """
        actions: Tensor = self.core.predict(self._observe(batch), initial_state=noise).actions
        return actions

    def select_action(self, batch: Mapping[str, Any], **_: Any) -> Tensor:
        """Return the next action of every environment, (B, A), in normalised units.

        The policy is queried only for those that have executed as many actions as `config.execution` says.
        """
        actions: Tensor = self.core.select_action(self._observe(batch))
        return actions

    def reset(self) -> None:
        """Forget actions and states, between episodes."""
        self.core.reset()

    def drop_queued_actions(self) -> None:
        """Forget chunks that run, as newer versions of LeRobot ask for on a new instruction."""
        self.core.reset()

    # --- files ---

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            return  # newer versions of LeRobot save in every process
        self.config._save_pretrained(save_directory)
        state = self.state_dict() if state_dict is None else state_dict
        own = {name.removeprefix(CORE): value for name, value in state.items() if name.startswith(CORE)}
        if self._trained_on is not None:
            self.core.records = {TRAINING: {**self._trained_on, "steps": self._updates}}
        self.core.save_weights(save_directory, own)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: RDVLAConfig | None = None,
        revision: str | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        strict: bool = True,
        **options: Any,
    ) -> Self:
        """Load a policy in eval mode: a checkpoint's `pretrained_model`, or the hub's by id.

        Args:
            pretrained_name_or_path: folder or hub id.
            config: with options that differ from the saved ones, such as `stop`.
            revision, force_download, token, cache_dir, local_files_only: for the hub.
            strict: ignored, weights always have to fit.
            options: of the constructor.

        Raises:
            RDVLAError: a file is missing or damaged, or does not fit the configuration.
        """
        del strict
        folder = find_policy_folder(
            pretrained_name_or_path,
            revision=revision,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        policy = cls(PreTrainedConfig.from_pretrained(folder) if config is None else config, **options)
        policy.core.load_weights(folder)
        policy._updates = int(policy.core.records.get(TRAINING, {}).get("steps") or 0)
        policy.to(policy.config.device)
        policy.eval()
        return policy

    # --- LeRobot's batches ---

    def _observe(self, batch: Mapping[str, Any]) -> Observation:
        missing = [camera for camera in self.config.cameras if camera_key(camera) not in batch]
        if missing:
            raise InputError(f"the batch lacks {camera_key(missing[0])!r}: pass it through the preprocessor")
        images = {camera: batch[camera_key(camera)] for camera in self.config.cameras}
        first = images[self.config.cameras[0]]
        count = len(first)
        state = batch[STATE] if self.config.state_dim else torch.zeros(count, 0, device=first.device)
        tasks = batch.get("task") or [""] * count
        return Observation(images, state, [task or self._instruction() for task in tasks])

    def _instruction(self) -> str:
        if self.config.instruction:
            return str(self.config.instruction)
        known = trained_instructions({TRAINING: self._trained_on} if self._trained_on else self.core.records)
        if len(known) != 1:
            raise ConfigError(
                "the environment or dataset gives no instruction (task), and the policy was trained on "
                f"{len(known) or 'unknown'} ones: name it by --policy.instruction='...'"
            )
        return known[0]

    def _training_batch(self, batch: Mapping[str, Any]) -> Batch:
        observation = self._observe(batch)
        actions = batch[ACTION].to(self.core.device)
        is_pad = batch.get(IS_PAD)
        if is_pad is None:
            is_pad = torch.zeros(actions.shape[:2], dtype=torch.bool)
        return Batch(
            features=self.core.frozen_inputs(observation),
            state=self.core.normalize_state(observation.state.to(self.core.device)),
            actions=actions,
            action_is_pad=is_pad.to(self.core.device),
        )


def _in_normalized_units(config: PolicyConfig) -> tuple[PolicyConfig, Statistics]:
    """Return the policy without normalisation and image fitting, which LeRobot's processors do."""
    inner = replace(config, camera_sizes={}, unscaled_actions=(), gripper_opening=(), clip_state=False)
    sizes = {ACTION: config.head.action_dim, STATE: config.state_dim}
    return inner, {name: {"low": [-1.0] * size, "high": [1.0] * size} for name, size in sizes.items()}


def _training_record(dataset_meta: Any) -> dict[str, Any]:
    return {
        "trained_by": f"LeRobot {lerobot.__version__}",
        "dataset": {"root": str(dataset_meta.root), "repo_id": dataset_meta.repo_id, "on_hub": []},
        "instructions": [str(task) for task in dataset_meta.tasks.index],
        "versions": {"rdvla": rdvla.__version__, "torch": torch.__version__},
    }
