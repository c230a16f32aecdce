"""The policy: an observation in, an action chunk in the robot's units out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rdvla.action_queue import ActionQueue
from rdvla.assets import find_policy
from rdvla.backbone.config import must_match
from rdvla.config import encode_config
from rdvla.errors import RDVLAError
from rdvla.execution import ExecutionRule, parse_execution
from rdvla.head import Context, Prediction, ProprioProjector, RecurrentDepthHead, StopRule, parse_rule
from rdvla.inputs import check_state
from rdvla.policy.config import PolicyConfig
from rdvla.policy.files import (
    CONFIG_FILE,
    DOWNLOADED,
    STATISTICS_FILE,
    load_weights,
    local_folder,
    read_description,
    write_policy_files,
)
from rdvla.policy.hub import HubPolicy
from rdvla.policy.parameters import hash_tensors
from rdvla.policy.records import read_records, write_records
from rdvla.policy.trainable import Trainable
from rdvla.processing import Normalizer, Observation, Statistics, check_images
from rdvla.warm_start import LastStates, WarmStart


class RDVLAPolicy(Trainable, HubPolicy):
    """A backbone, a recurrent-depth head, and the statistics that tie them to one robot.

    Args:
        config: sizes and choices.
        statistics: feature -> statistic -> numbers, as in a LeRobot dataset's ``stats.json``; needed are the
            quantiles ``q01`` and ``q99`` of ``action`` and ``observation.state``.

    Raises:
        RDVLAError: statistics are missing, or parts of the configuration do not fit each other.
    """

    def __init__(self, config: PolicyConfig, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        self.statistics = statistics
        self.action_normalizer = Normalizer.from_statistics(
            statistics,
            "action",
            size=config.head.action_dim,
            keep=config.unscaled_actions,
            opening=config.gripper_opening,
        )
        self.state_normalizer = Normalizer.from_statistics(
            statistics, "observation.state", size=config.state_dim, clip=config.clip_state
        )
        self.backbone = config.backbone.make()
        self.head = RecurrentDepthHead(config.head)
        must_match(
            "head.context_dim", config.head.context_width, "the backbone's width", self.backbone.context_width
        )
        self.proprio_projector = ProprioProjector(config.state_dim, config.head.context_width)
        self.stop_rule = parse_rule(config.depth)
        self.execution: ExecutionRule = parse_execution(config.execution)
        self.warm_start = WarmStart(config.start)  # type: ignore[arg-type]  # checked by the class
        self.records = {}
        self.reset()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.gamma_init.device

    # --- acting ---

    @torch.no_grad()
    def predict(
        self,
        observation: Observation,
        *,
        depth: int | StopRule | None = None,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
    ) -> Prediction:
        """One action chunk a sample, in real units.

        Args:
            observation: a batch of B observations.
            depth: iterations or a stop rule; the configuration's if not given.
            initial_state: S_0, (B, K, D); drawn if not given.
            generator: where S_0 is drawn from.
            trace: also return what every iteration would have done.

        Raises:
            RDVLAError: a camera is missing, or an image or the state has the wrong size.
        """
        inputs = self.frozen_inputs(observation)
        context = self.context_from(inputs, self.normalize_state(observation.state.to(self.device)))
        rule = self.stop_rule if depth is None else depth
        prediction = self.head(
            context, depth=rule, initial_state=initial_state, generator=generator, trace=trace
        )
        return self._in_real_units(prediction)

    def select_action(self, observation: Observation) -> Tensor:
        """The next action of every sample, (B, A), real units; predicts only where a chunk has run out."""
        empty = self._queue.empty_rows(observation.batch_size)
        if empty:
            noise = self.initial_state(len(empty), self._generator)
            start = self._last_states.initial_state(empty, noise)
            prediction = self.predict(observation.select(empty), initial_state=start)
            horizon = self.execution.horizon(prediction.depth).tolist()
            self._queue.refill(empty, prediction.actions, horizon)
            self._last_states.keep(empty, prediction.state, horizon)
        return torch.stack(self._queue.pop())

    def reset(self, seed: int | None = None) -> None:
        """Forget actions and states, between episodes. A seed makes the initial states repeatable."""
        self._queue = ActionQueue[Tensor]()
        self._last_states = LastStates[Tensor](self.warm_start)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """S_0 for `predict`, (B, K, D)."""
        return self.head.initial_state(batch_size, generator)

    def _in_real_units(self, prediction: Prediction) -> Prediction:
        real = self.action_normalizer.unnormalize
        traced = prediction.trace
        if traced is not None:
            traced = dataclasses.replace(traced, actions=real(traced.actions))
        return dataclasses.replace(prediction, actions=real(prediction.actions), trace=traced)

    # --- the road in two halves, for training ---

    def frozen_inputs(self, observation: Observation) -> dict[str, Tensor]:
        """What no trainable parameter touches, (B, ...) each: a cache may store it under `cache_key`."""
        images = check_images(
            observation.images, cameras=self.config.cameras, image_size=self.config.image_size
        )
        with torch.no_grad():
            return self.backbone.frozen_inputs(images.to(self.device), observation.instruction)

    def context_from(self, frozen_inputs: Mapping[str, Tensor], state: Tensor) -> Context:
        """The rest of the way to the head's context, with gradient.

        Args:
            frozen_inputs: from `frozen_inputs`, or from a cache.
            state: (B, S) normalised proprioception.
        """
        features = self.backbone.features(frozen_inputs)
        return self.head.context(
            vision=features.vision, latents=features.latents, proprio=self.proprio_projector(state)
        )

    def normalize_state(self, state: Tensor) -> Tensor:
        """(B, S) real units -> normalised.

        Raises:
            RDVLAError: the state has another size, or is not finite.
        """
        check_state(state, state_dim=self.config.state_dim)
        return self.state_normalizer.normalize(state.float())

    def cache_key(self) -> str:
        """Changes whenever `frozen_inputs` would return something else."""
        description = [
            encode_config(self.config.backbone),
            list(self.config.cameras),
            self.backbone.frozen,
            self.backbone.preparation(),
        ]
        # Published encoders count by their weights, not just by their name: a folder's content can change.
        constant = ("",) if self.backbone.frozen else self.backbone.constant_prefixes()
        weights = sorted(self.backbone.state_dict().items())
        return hash_tensors(
            (item for item in weights if item[0].startswith(constant)),
            start=json.dumps(description, sort_keys=True).encode(),
        )

    # --- files ---

    def _own_weights(self) -> set[str]:
        external = tuple(f"backbone.{prefix}" for prefix in self.backbone.external_prefixes())
        return {name for name in self.state_dict() if not (external and name.startswith(external))}

    def _save_pretrained(self, save_directory: Path) -> None:
        own, state = self._own_weights(), self.state_dict()
        weights = {name: state[name] for name in own}
        self.backbone.save_files(save_directory)
        write_policy_files(save_directory, config=self.config, statistics=self.statistics, weights=weights)
        write_records(save_directory, self.records)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's **model_kwargs have no use here
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> RDVLAPolicy:
        """Load a policy from a folder, by the name of one that ships, or from the hub by id, in eval mode.

        Raises:
            RDVLAError: a file is missing or damaged, or does not fit the configuration; the message names it.
        """
        folder = find_policy(pretrained_model_name_or_path) or local_folder(
            pretrained_model_name_or_path,
            kind="policy",
            files=DOWNLOADED,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, statistics = read_description(folder)
        try:
            policy = cls(config, statistics)
        except RDVLAError as error:
            raise RDVLAError(f"{folder / CONFIG_FILE} and {STATISTICS_FILE} beside it: {error}") from error
        load_weights(policy, folder, wanted=policy._own_weights())
        policy.backbone.load_files(folder)
        policy.records = read_records(folder)
        return policy.eval()
