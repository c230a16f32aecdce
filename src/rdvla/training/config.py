"""The configuration of a training run, written in full into every run directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from rdvla.control.start import KINDS
from rdvla.errors import ConfigError
from rdvla.heads.recurrent.config import RecurrentConfig
from rdvla.policy.config import PolicyConfig
from rdvla.policy.device import Device
from rdvla.processing.augmentation import Augmentation
from rdvla.training.compute import ComputeConfig
from rdvla.training.ranges import MOST, not_negative, one_of, positive, refuse

OBJECTIVES = ("actions", "perception")
COMPONENTS = ("backbone", "head")
TRACKERS = {"tensorboard": "train", "wandb": "wandb", "trackio": "trackio"}  # -> extra that brings it
USUAL_WARMUP = 100  # updates


@dataclass(frozen=True)
class DataConfig:
    """Which episodes are trained on, and how their images come in."""

    validation_fraction: float = 0.1  # share of every task's episodes that is held out, 0..1
    split_seed: int = 0  # of the episode split; not `seed`, so runs with other seeds share a validation set
    cameras: dict[str, str] = field(default_factory=dict)  # dataset's name: policy's, as {image: agentview}
    action: tuple[str, ...] = ()  # features that make up the action, in this order; empty: action
    state: tuple[str, ...] = ()  # features that make up the proprioception; empty: observation.state, if any
    weights: tuple[float, ...] = ()  # of several datasets in a batch; empty: by their numbers of samples
    sampling: Literal["auto", "uniform", "windowed"] = "auto"  # auto: windowed if data is streamed
    window: int = 0  # of windowed sampling: shards (video files) that are open at a time; 0: chosen
    cache_gb: float | None = None  # GB of files with images kept here; null: hub whole, addresses 20 GB
    stream_dir: str = ""  # folder of files of streamed data, which runs share; empty: in the user's cache
    sample_every: int = 1  # chunks start at every n-th new image: fewer samples, and a smaller cache
    cache_dir: str = ""  # folder of cached frozen inputs, which runs may share; empty: <output_dir>/cache
    cache_batch_size: int = 64  # observations per batch while the cache is filled
    memory_limit_gb: float = 2.0  # GB; caches up to this size are held in memory, larger stay on the disk
    image_shift: int = 0  # pixels; random shift of images for a trainable encoder, 0: off
    augmentation: Augmentation = field(default_factory=Augmentation)  # random changes of its images

    # Options of older files that are gone -> the value that meant what is done now.
    gone: ClassVar[dict[str, Any]] = {"resize": False}

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"data.validation_fraction is {self.validation_fraction}; it must be at least 0 and below 1."
            )
        positive("data", cache_batch_size=self.cache_batch_size, sample_every=self.sample_every)
        not_negative("data", split_seed=self.split_seed, window=self.window)
        positive("data", cache_gb=1 if self.cache_gb is None else self.cache_gb)
        one_of("data.sampling", self.sampling, ("auto", "uniform", "windowed"))
        not_negative("data", image_shift=self.image_shift, memory_limit_gb=self.memory_limit_gb)
        self._check_weights()

    def _check_weights(self) -> None:
        weights = list(self.weights)
        if any(not 0 <= weight <= MOST for weight in weights):
            raise ConfigError(f"data.weights is {weights}; every weight must be 0 or larger.")
        if weights and sum(weights) == 0:
            raise ConfigError(f"data.weights is {weights}; at least one weight must be above 0.")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 1e-3  # reached by the warm-up; the paper's 72 M head takes 2e-4
    final_fraction: float = 0.02  # last step's share of learning_rate
    warmup_steps: int | None = None  # updates of linear rise from 0; null: 100, or a tenth of a short run
    weight_decay: float = 0.01  # on matrices only, see `parameter_groups`
    beta1: float = 0.9  # decay of the gradient's running mean
    beta2: float = 0.95  # decay of the squared gradient's mean; short, as its size changes with the depth
    epsilon: float = 1e-8  # added to the denominator of AdamW
    clip_norm: float = 1.0  # largest norm of the whole gradient

    def __post_init__(self) -> None:
        if self.learning_rate > 1:
            raise ConfigError(
                f"optimizer.learning_rate is {self.learning_rate}; it must be at most 1: an update moves a "
                "weight by about as much."
            )
        positive(
            "optimizer", learning_rate=self.learning_rate, epsilon=self.epsilon, clip_norm=self.clip_norm
        )
        not_negative("optimizer", warmup_steps=self.warmup_steps or 0, weight_decay=self.weight_decay)
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise ConfigError(f"optimizer.{name} is {value}; it must be at least 0 and below 1.")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"optimizer.final_fraction is {self.final_fraction}; it must be in 0..1.")

    def warmup(self, steps: int) -> int:
        """Return the updates of the warm-up in a run of `steps` updates."""
        return min(USUAL_WARMUP, steps // 10) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True)
class DepthConfig:
    """How many iterations r an update runs, drawn once per update."""

    distribution: Literal["lognormal_poisson", "constant"] = "lognormal_poisson"  # the paper's, or `mean`
    mean: float | None = None  # m, iterations; null: policy.head.mean_depth
    minimum: int = 1  # smallest r
    maximum: int = 64  # largest r

    def __post_init__(self) -> None:
        one_of("depth.distribution", self.distribution, ("lognormal_poisson", "constant"))
        positive("depth", mean=1 if self.mean is None else self.mean, minimum=self.minimum)
        if self.maximum < self.minimum:
            raise ConfigError(
                f"depth.maximum is {self.maximum}, below depth.minimum {self.minimum}; swap or widen them."
            )
        if self.distribution == "constant" and self.mean is not None and self.mean != int(self.mean):
            raise ConfigError(f"depth.mean is {self.mean}; a constant depth must be a whole number.")


@dataclass(frozen=True)
class LossConfig:
    """What is added to the L1 between chunks."""

    proprio_noise: float = 0.0  # standard deviation in normalised units (-1..1), in training only
    perception_weight: float = 0.0  # of the perception loss in the sum; takes a trainable backbone
    keypoint_weight: float = 0.0  # of the attention's cross-entropy with keypoints in the perception loss
    candidates: int = 1  # initial states per sample, of which the one that ends nearest is trained; 1: paper

    def __post_init__(self) -> None:
        positive("loss", candidates=self.candidates)
        not_negative(
            "loss",
            proprio_noise=self.proprio_noise,
            perception_weight=self.perception_weight,
            keypoint_weight=self.keypoint_weight,
        )


@dataclass(frozen=True)
class WarmStartConfig:
    """Samples that go on from an earlier query, as a robot's queries do if `policy.start` is not noise."""

    share: float = 0.0  # of an update's samples that do so, 0..1
    kind: Literal["final", "midpoint", "shifted"] = "final"  # how S_0 is made from the earlier query's state
    executed: int = 4  # control steps, each an executed action, from the earlier query to the sample
    depth: int = 8  # iterations of the earlier query, which starts from noise, without gradient

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"warm_start.share is {self.share}; it must be in 0..1.")
        one_of("warm_start.kind", self.kind, tuple(kind for kind in KINDS if kind != "noise"))
        positive("warm_start", executed=self.executed, depth=self.depth)


@dataclass(frozen=True)
class EMAConfig:
    """Exponential moving average of the weights, which is validated and saved as the policy."""

    decay: float = 0.995  # reached by the warm-up; 0: no averaging
    warmup: int = 10  # after n updates decay is at most (1 + n) / (warmup + n): early weights fade fast

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"ema.decay is {self.decay}; it must be at least 0 and below 1.")
        positive("ema", warmup=self.warmup)


@dataclass(frozen=True)
class ValidationConfig:
    """The loss on held-out episodes."""

    every: int = 500  # steps between validations; 0: only at the end
    depths: tuple[int, ...] = (1, 2, 4, 8, 12, 32)  # iterations r; the last decides which step is best
    max_samples: int = 1024  # held-out samples, evenly spread
    batch_size: int = 256  # samples per batch

    def __post_init__(self) -> None:
        not_negative("validation", every=self.every)
        positive("validation", max_samples=self.max_samples, batch_size=self.batch_size)
        if not self.depths or min(self.depths) < 1:
            raise ConfigError(
                f"validation.depths is {list(self.depths)}; name one or more depths of at least 1."
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """How often a run saves what it can resume from, and which weights it gives as its policy."""

    every: int = 500  # steps between checkpoints; the last step always saves a checkpoint
    keep: int = 2  # newest checkpoints that are kept, next to the best
    policy: Literal["best", "last"] = "best"  # <run>/policy: weights of the best validation, or the newest

    def __post_init__(self) -> None:
        one_of("checkpoints.policy", self.policy, ("best", "last"))
        positive("checkpoints", every=self.every, keep=self.keep)


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on.

    Raises:
        ConfigError: a value is out of range, or two values contradict each other.
    """

    dataset: (
        str  # in LeRobot's formats: a folder, hub id (user/name@revision), s3://... address, or several: a,b
    )
    output_dir: str = ""  # run directory; new or empty, unless the run resumes; empty: runs/<dataset's name>
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    objective: Literal["actions", "perception"] = "actions"  # cloning, or environment-state regression
    steps: int = 3000  # updates; the learning rate's schedule ends there
    batch_size: int = 128  # B, samples per update, over all processes
    seed: int = 0  # decides every random draw, together with the step number
    init_from: str = ""  # policy, run directory or hub id whose weights it starts from; empty: random
    init_parts: tuple[str, ...] = ("backbone",)  # taken from init_from: backbone, head or both
    freeze_backbone: bool = False  # train the head alone, on features that are computed once
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    log_every: int = 10  # steps between lines of metrics.jsonl, and between points of the trackers
    trackers: tuple[str, ...] = ("tensorboard",)  # next to metrics.jsonl: tensorboard, wandb, trackio
    threads: int = 1  # of torch; 1 was 6x faster than 2 on a busy two-core machine
    device: Device = "auto"  # auto: an accelerator if there is one
    mixed_precision: Literal["no", "bf16"] = "no"  # bf16 pays for wide models and slows down small ones
    resume: bool = False  # go on from the latest checkpoint of output_dir
    resume_from_previous: bool = False  # if the latest checkpoint is damaged, use the newest intact one

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        one_of("device", self.device, get_args(Device))
        one_of("mixed_precision", self.mixed_precision, ("no", "bf16"))
        for component in self.init_parts:
            one_of("init_parts", component, COMPONENTS)
        for tracker in self.trackers:
            one_of("trackers", tracker, tuple(TRACKERS))
        for name, least in {"steps": 1, "batch_size": 1, "log_every": 1, "threads": 1, "seed": 0}.items():
            if not least <= (value := getattr(self, name)) <= MOST:
                refuse(name, value, least=f"at least {least}")
        self._check_names()
        self._check_combinations()
        if self.warm_start.share > 0:
            self._check_warm_start()

    @property
    def trains_perception(self) -> bool:
        """Whether the loss needs the environment's state."""
        return self.objective == "perception" or self.loss.perception_weight > 0

    def _check_names(self) -> None:
        if not self.dataset:
            raise ConfigError("dataset is empty; name a folder, for example dataset=datasets/example.")
        if self.init_from and not self.init_parts:
            raise ConfigError("init_from is given but init_parts is empty; name backbone, head or both.")

    def _check_combinations(self) -> None:
        self.compute.check_batch_size(self.batch_size, processes=self.compute.processes)
        if self.freeze_backbone and self.data.augmentation.is_on:
            raise ConfigError(
                "data.augmentation changes images, but with freeze_backbone=true their features are computed "
                "once; set freeze_backbone=false, or leave data.augmentation out."
            )
        if self.freeze_backbone and self.objective == "perception":
            raise ConfigError(
                "objective=perception trains the backbone, but freeze_backbone is true; "
                "set freeze_backbone=false."
            )
        if self.freeze_backbone and self.loss.perception_weight > 0:
            raise ConfigError(
                "loss.perception_weight acts on the backbone only, but freeze_backbone=true; set it to 0."
            )
        if not self.trains_perception and self.loss.keypoint_weight > 0:
            raise ConfigError(
                "loss.keypoint_weight acts within the perception loss, which this run does not have; "
                "set it to 0, or train with objective=perception or loss.perception_weight above 0."
            )
        if self.loss.candidates > 1 and not isinstance(self.policy.head, RecurrentConfig):
            raise ConfigError(
                f"loss.candidates is {self.loss.candidates}, but the initial states that it chooses from are "
                "a recurrent head's: set it to 1, or policy.head.type=recurrent."
            )
        if (self.optimizer.warmup_steps or 0) >= self.steps:
            raise ConfigError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}, but the run has only {self.steps} "
                "steps; shorten the warm-up."
            )

    def _check_warm_start(self) -> None:
        if self.compute.strategy == "fsdp":
            raise ConfigError(
                "warm_start.share is above 0: processes run different numbers of earlier queries, so weights "
                "cannot be shared out. Set compute.strategy=ddp."
            )
        if self.objective != "actions":
            raise ConfigError(
                f"warm_start.share is above 0, but objective={self.objective} iterates nothing; set it to 0."
            )
        chunk, executed = self.policy.head.chunk_size, self.warm_start.executed
        most = chunk - 1 if self.warm_start.kind == "shifted" else chunk  # a state shifted by K is all noise
        if executed > most:
            raise ConfigError(
                f"warm_start.executed is {executed}; with warm_start.kind={self.warm_start.kind} and chunks "
                f"of {chunk} actions it must be at most {most}."
            )
