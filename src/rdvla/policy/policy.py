"""The policy: an observation in, an action chunk in the robot's units out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdvla.backbone.config import must_match
from rdvla.config import encode_config
from rdvla.control import (
    Deadlines,
    ExecutionRule,
    Session,
    Stop,
    Stops,
    WarmStart,
    parse_execution,
    parse_stop,
)
from rdvla.engine import Predictor, engine_for
from rdvla.errors import ConfigError, RDVLAError
from rdvla.hashing import hash_tensors
from rdvla.heads import Context, ProprioProjector
from rdvla.heads.base import GENERATOR
from rdvla.inputs import as_initial_state, as_seed, check_generator, stack, to_torch
from rdvla.policy.base_models import BASE_MODELS_FILE, OnChange, check_base_models, write_base_models
from rdvla.policy.checksums import CHECKSUMS_FILE, check_checksums, write_checksums
from rdvla.policy.config import PolicyConfig
from rdvla.policy.declared import check_declared
from rdvla.policy.files import (
    CONFIG_FILE,
    STATISTICS_FILE,
    WEIGHTS_FILE,
    find_policy_folder,
    load_weights,
    read_description,
    write_description,
    write_weights,
)
from rdvla.policy.hub import HubPolicy
from rdvla.policy.records import TRAINING, read_records, trained_instructions, write_records
from rdvla.policy.trainable import Trainable
from rdvla.processing import Statistics, policy_normalizers
from rdvla.processing.text import InstructionCheck
from rdvla.types import (
    Array,
    Observation,
    Prediction,
    as_observation,
    check_actions,
    check_state,
    is_single,
)

# Files that the checksums cover, as far as a policy has them. Results are put there later, and say themselves
# which weights they are of; the card may be edited.
OWN_FILES = (CONFIG_FILE, WEIGHTS_FILE, STATISTICS_FILE, BASE_MODELS_FILE, TRAINING)


class RDVLAPolicy(Trainable, HubPolicy):
    """A backbone, an action head, and the statistics that tie them to one robot.

    Args:
        config: sizes and choices.
        statistics: feature -> statistic -> numbers, as in a LeRobot dataset's ``stats.json``; needed are the
            bounds ``low`` and ``high``, or the quantiles ``q01`` and ``q99``, of ``action`` and
            ``observation.state``.

    Raises:
        RDVLAError: statistics are missing, or parts of the configuration do not fit each other.
    """

    def __init__(self, config: PolicyConfig, statistics: Statistics) -> None:
        super().__init__()
        config.check_complete()
        self.config = config
        self.statistics = statistics
        self.action_normalizer, self.state_normalizer = policy_normalizers(
            statistics,
            action_dim=config.head.action_dim,
            state_dim=config.state_dim,
            unscaled_actions=config.kept_actions,
            gripper_opening=config.gripper_opening,
            clip_state=config.clip_state,
        )
        self.backbone = config.backbone.make()
        self.head = config.head.make()
        must_match(
            "head.context_dim", config.head.context_width, "the backbone's width", self.backbone.context_width
        )
        self.proprio_projector = ProprioProjector(config.state_dim, config.head.context_width)
        self.stop: Stop = parse_stop(config.stop)
        self.execution: ExecutionRule = parse_execution(config.execution)
        self.warm_start = WarmStart(config.start)  # type: ignore[arg-type]  # checked by the class
        self._engine: Predictor = engine_for(self.head)
        self.records = {}
        self._check_instructions = InstructionCheck()
        self.session: Session
        self.reset()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.head.parameters()).device

    @property
    def engine(self) -> Predictor:
        """What runs the head, such as `rdvla.engine.compile(policy.head)`; a new head gets a new one.

        Raises:
            RDVLAError: it is set to an engine of another head.
        """
        if self._engine.head is not self.head:
            self._engine = engine_for(self.head)
        return self._engine

    @engine.setter
    def engine(self, engine: Predictor) -> None:
        if engine.head is not self.head:
            raise RDVLAError("the engine runs another head: make one for this policy's head")
        self._engine = engine

    # --- acting ---

    @torch.no_grad()
    def predict(
        self,
        observation: Observation | Sequence[Observation],
        *,
        stop: Stops | None = None,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Array | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
        deadline: Deadlines = None,
    ) -> Prediction:
        """Return one action chunk per sample, in the robot's units.

        Args:
            observation: a batch of B observations, a single one, or a list of single ones, whose images may
                differ in size.
            stop: iterations, a stop rule, its text, or one of these per sample; the configuration's if not
                given.
            max_depth: a depth at which samples end whatever their rule says; one, or one per sample.
            initial_state: S_0, (B, K, D), a tensor or a numpy array; for a single observation also (K, D),
                such as the last prediction's state; drawn if not given.
            generator: source of S_0.
            trace: also return what every iteration would have done.
            deadline: when the prediction should be ready, in seconds of `time.monotonic()`; one, or one or
                None per sample. A sample that another iteration would make late ends as if that was its
                maximum depth, after at least one iteration. Heads that do not iterate take their time.

        Returns:
            The prediction; without the batch dimension for a single observation.

        Raises:
            RDVLAError: a camera is missing, or an image, the state or S_0 has the wrong size or is not
                finite; a trace is asked of a head that does not iterate; or an action is not finite.

        Warns:
            UnknownInstructionWarning: the policy was not trained on an instruction; once for each.
        """
        check_generator(generator, torch.Generator, example=GENERATOR)
        batch = self.config.fits.batch(observation).torch()
        if initial_state is not None:
            shape = (batch.batch_size, *self.head.state_shape)
            initial_state = to_torch(as_initial_state(initial_state, shape=shape)).to(self.device)
        self._check_instructions(batch.instruction, trained=trained_instructions(self.records), stacklevel=4)
        inputs = self.frozen_inputs(batch)
        context = self.context_from(inputs, self.normalize_state(batch.state.to(self.device)))
        prediction = self.engine.predict(
            context,
            stop=self.stop if stop is None else stop,
            max_depth=max_depth,
            initial_state=initial_state,
            generator=generator,
            trace=trace,
            deadline=deadline,
        ).with_actions(self.action_normalizer.unnormalize)
        check_actions(prediction, state=batch.state)
        return prediction.sample(0) if is_single(observation) else prediction

    def select_action(self, observation: Observation) -> Array:
        """Return the next action of every robot, (B, A), or (A,) for a single observation, in its units.

        The policy is queried only for robots that have executed the last chunk. Call `reset` between
        episodes.

        Raises:
            RDVLAError: as `predict`; or the batch has another size than before.
        """
        observation = as_observation(observation)
        batch = observation.torch().batched()
        actions = stack(self.session.act(self, batch, generator=self._generator))
        return actions if observation.is_batch else actions[0]

    def reset(self, seed: int | None = None, *, robots: Sequence[int] | None = None) -> None:
        """Forget actions and states, between episodes.

        Args:
            seed: makes the initial states repeatable.
            robots: those of a batch whose episodes begin anew, while the others go on; all if not given.
        """
        if robots is not None:
            self.session.reset(robots)
            return
        self.session = Session(self.execution, self.warm_start)
        self._generator = None if seed is None else torch.Generator().manual_seed(as_seed(seed))

    @torch.no_grad()
    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw S_0 for `predict`, (B, K, D)."""
        check_generator(generator, torch.Generator, example=GENERATOR)
        return self.head.initial_state(batch_size, generator)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the stream of initial states as bytes: torch's generators do not reach a spawned process."""
        state = dict(super().__getstate__())  # type: ignore[no-untyped-call]
        if self._generator is not None:
            state["_generator"] = self._generator.get_state().numpy().tobytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_generator"] is not None:
            generator = torch.Generator()
            generator.set_state(torch.frombuffer(bytearray(state["_generator"]), dtype=torch.uint8))
            state = {**state, "_generator": generator}
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    # --- the road in two halves, for training ---

    def frozen_inputs(self, observation: Observation) -> dict[str, Tensor]:
        """Compute what no trainable parameter touches, (B, ...) each; a cache may store it by `cache_key`.

        Args:
            observation: a batch whose images are square already (`config.fits`).
        """
        config = self.config
        observation.check(cameras=config.cameras, image_size=config.image_size, state_dim=config.state_dim)
        images = torch.stack([observation.images[camera].to(self.device) for camera in config.cameras], dim=1)
        with torch.no_grad():
            return self.backbone.frozen_inputs(images, observation.instruction)

    def context_from(self, frozen_inputs: Mapping[str, Tensor], state: Tensor) -> Context:
        """Compute the head's context from there, with gradient.

        Args:
            frozen_inputs: from `frozen_inputs`, or from a cache.
            state: (B, S) normalised proprioception.
        """
        features = self.backbone.features(frozen_inputs)
        return self.head.context(
            vision=features.vision, latents=features.latents, proprio=self.proprio_projector(state)
        )

    def normalize_state(self, state: Tensor) -> Tensor:
        """Normalise (B, S) proprioception.

        Raises:
            RDVLAError: the state has another size, or is not finite.
        """
        check_state(state, state_dim=self.config.state_dim)
        return self.state_normalizer.normalize(state.float())

    def cache_key(self) -> str:
        """Return a hash that changes whenever `frozen_inputs` would return something else."""
        options = encode_config(self.config.backbone)
        for name in self.config.backbone.naming_fields:
            options[name] = bool(options[name]) or None
        description = [
            options,
            list(self.config.cameras),
            self.backbone.frozen,
            self.backbone.preparation(),
        ]
        if architecture := self.backbone.architecture():
            description.append(architecture)
        # Published models count by what they are, not by their name: a folder's content can change.
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
        (save_directory / CHECKSUMS_FILE).unlink(missing_ok=True)  # they come last, once all files are there
        files = self.save_weights(save_directory)
        write_description(save_directory, config=self.config, statistics=self.statistics)
        write_checksums(save_directory, [*OWN_FILES, *files])

    def save_weights(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> Sequence[str]:
        """Write weights, records and what the backbone needs, but neither configuration nor statistics.

        Args:
            folder: exists.
            state: the weights by name, if they are not this module's own.

        Returns:
            The names of the backbone's files.
        """
        state = self.state_dict() if state is None else state
        files = self.backbone.save_files(folder)
        write_weights(folder, {name: state[name] for name in self._own_weights()})
        write_base_models(folder, self.backbone)
        write_records(folder, self.records)
        return files

    def load_weights(self, folder: Path, *, changed_weights: OnChange | None = None) -> None:
        """Read what `save_weights` wrote.

        Args:
            folder: of a policy, in our layout or in LeRobot's.
            changed_weights: see `from_pretrained`.

        Raises:
            RDVLAError: a file is missing or damaged, or does not fit; or a published model changed.
        """
        check_base_models(folder, self.backbone, self.config.backbone, on_change=changed_weights)
        load_weights(self, folder, wanted=self._own_weights())
        self.backbone.load_files(folder)
        self.records = read_records(folder)

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
        changed_weights: OnChange | None = None,
    ) -> RDVLAPolicy:
        """Load a policy in eval mode: a folder, a run directory, one that ships by name, or the hub's by id.

        Args:
            pretrained_model_name_or_path: folder, name or hub id.
            revision: branch, tag or commit on the hub.
            token: for the hub.
            cache_dir: folder of downloads.
            force_download: download again what is there already.
            local_files_only: do not ask the hub.
            changed_weights: what to do if a published model that the policy stands on is not the one that it
                was saved with: refuse (the default), or warn. If not given, the environment variable
                `RDVLA_CHANGED_WEIGHTS` decides.

        Raises:
            RDVLAError: a file is missing or damaged, or does not fit the configuration; or a published model
                changed. The message names it.
        """
        folder = find_policy_folder(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, statistics = read_description(folder)
        check_checksums(folder)
        try:
            config.check_complete()
            check_declared(folder, config)
        except ConfigError as error:
            raise ConfigError(f"{folder / CONFIG_FILE}: {error}") from error
        try:
            policy = cls(config, statistics)
        except RDVLAError as error:
            raise RDVLAError(f"{folder / CONFIG_FILE} and {STATISTICS_FILE} next to it: {error}") from error
        policy.load_weights(folder, changed_weights=changed_weights)
        return policy.eval()
