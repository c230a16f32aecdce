"""What every action head offers: context features in, a chunk of actions out."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rdvla.control import Stops
from rdvla.errors import InputError
from rdvla.heads.checkpointing import Checkpointing
from rdvla.heads.config import HeadConfig, Level
from rdvla.inputs import Array, as_initial_state, check_generator, to_torch
from rdvla.types import Prediction

GENERATOR = "torch.Generator().manual_seed(0)"  # for messages


@dataclass(frozen=True)
class Context:
    """Backbone features of a batch of B observations; E is the width of the context."""

    vision: Mapping[Level, Tensor]  # h_vis by level, each (B, M, E)
    latents: Mapping[Level, Tensor]  # h_lat by level, each (B, L, E)
    proprio: Tensor  # p, (B, 1, E)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.proprio.shape[0]

    def select(self, samples: slice | Tensor) -> Context:
        """Return some samples of the batch."""
        return Context(
            {level: value[samples] for level, value in self.vision.items()},
            {level: value[samples] for level, value in self.latents.items()},
            self.proprio[samples],
        )

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Context:
        """Detach the features, and move them to a device and dtype."""

        def moved(value: Tensor) -> Tensor:
            return value.detach().to(device=device, dtype=dtype)

        return Context(
            {level: moved(value) for level, value in self.vision.items()},
            {level: moved(value) for level, value in self.latents.items()},
            moved(self.proprio),
        )


@dataclass(frozen=True)
class Loss:
    """A loss to differentiate, and the figures to log with it."""

    total: Tensor  # ()
    scalars: Mapping[str, Tensor]  # name -> (), without gradient


@dataclass(frozen=True)
class Score:
    """A sum over a batch and its divisor, so batches of unequal size add up."""

    total: Tensor  # ()
    count: Tensor  # ()

    @property
    def mean(self) -> Tensor:
        """Sum over divisor, ()."""
        return self.total / self.count


class ActionHead(Checkpointing, ABC):
    """Features of an observation in, a chunk of K actions out, in normalised units.

    A head that iterates runs an iteration with gradient through `checkpointed`.
    """

    config: HeadConfig
    state_shape: tuple[int, ...]  # of one sample's initial state, such as (K, D)

    @abstractmethod
    def loss(
        self,
        context: Context,
        actions: Tensor,
        *,
        is_pad: Tensor,
        generator: torch.Generator | None = None,
        depth: int | None = None,
        initial_state: Tensor | None = None,
    ) -> Loss:
        """Return the training loss of a batch: a mean over the action steps that are not padding.

        Its scalars are such means too. So a batch may be computed in shares, see `rdvla.policy.batch.Share`.

        Args:
            context: features of B observations.
            actions: (B, K, A) demonstrated chunks, normalised.
            is_pad: (B, K) bool, True past the end of the episode.
            generator: source of all random numbers.
            depth: number of iterations, if the head iterates; drawn by the head if not given.
            initial_state: (B, K, D), where the iterations start; drawn if not given.
        """

    @abstractmethod
    def errors(
        self,
        context: Context,
        actions: Tensor,
        *,
        is_pad: Tensor,
        depths: Sequence[int],
        generator: torch.Generator | None = None,
        initial_state: Tensor | None = None,
    ) -> dict[int, Score]:
        """Return the summed L1 of the predicted chunk by depth, for validation; arguments as in `loss`."""

    @abstractmethod
    def predict(
        self,
        context: Context,
        *,
        stop: Stops,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Return one action chunk per sample, without gradient.

        Args:
            context: features of B observations.
            stop: a depth, a stop rule, its text, or one of these per sample. Heads that do not iterate
                ignore it.
            max_depth: a depth at which samples end whatever their rule says; one, or one per sample.
            initial_state: (B, K, D), where the iterations start; drawn if not given.
            generator: source of random numbers.
        """

    @abstractmethod
    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw where the iterations of B samples start, (B, K, D)."""

    def given_or_drawn(
        self, initial_state: Array | None, context: Context, generator: torch.Generator | None
    ) -> Tensor:
        """Return the initial state as given, in the head's dtype and on its device, or drawn if it is None.

        Raises:
            InputError: its shape does not fit the context, or the generator is not torch's.
        """
        check_generator(generator, torch.Generator, example=GENERATOR)
        if initial_state is None:
            return self.initial_state(context.batch_size, generator)
        expected = (context.batch_size, *self.state_shape)
        if not isinstance(initial_state, Tensor):
            initial_state = to_torch(as_initial_state(initial_state, shape=expected))
        if tuple(initial_state.shape) != expected:
            raise InputError(f"initial_state must be {expected}, got {tuple(initial_state.shape)}")
        return initial_state.to(next(self.parameters()))

    def context(
        self, *, vision: Mapping[Level, Tensor], latents: Mapping[Level, Tensor], proprio: Tensor
    ) -> Context:
        """Check a backbone's features, and keep the levels that the head reads.

        Args:
            vision: level -> (B, M, E).
            latents: level -> (B, L, E).
            proprio: (B, 1, E).

        Raises:
            ValueError: a level that the head reads is missing, or a shape does not fit.
        """
        width, levels = self.config.context_width, self.config.levels
        if proprio.ndim != 3 or proprio.shape[1:] != (1, width):
            raise ValueError(f"proprio must be (B, 1, {width}), got {tuple(proprio.shape)}")
        for kind, features in (("vision", vision), ("latents", latents)):
            for level in levels:
                if level not in features:
                    raise ValueError(
                        f"{kind} lacks the context level {level!r}; it has {sorted(map(str, features))}"
                    )
                shape = tuple(features[level].shape)
                if len(shape) != 3 or shape[0] != proprio.shape[0] or shape[2] != width:
                    raise ValueError(
                        f"{kind}[{level!r}] must be ({proprio.shape[0]}, tokens, {width}), got {shape}"
                    )
        return Context(
            vision={level: vision[level] for level in levels},
            latents={level: latents[level] for level in levels},
            proprio=proprio,
        )


class ProprioProjector(nn.Module):
    """Two-layer MLP from normalised proprioception (B, S) to one context token p (B, 1, E)."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__()
        # A robot without proprioception gets a learned token, the bias alone, which torch would warn of.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.fc1 = nn.Linear(state_dim, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """(B, S) -> (B, 1, E)."""
        token: Tensor = self.fc2(nn.functional.gelu(self.fc1(state)))
        return token.unsqueeze(1)


def absolute_error(predicted: Tensor, target: Tensor, *, is_pad: Tensor) -> Score:
    """Sum |predicted - target| over the steps that are not padding.

    A chunk that starts near the end of an episode reaches past it. Those steps are left out, not trained
    towards a repeated last action: nothing was demonstrated there, and with delta actions a repetition would
    be wrong.

    Args:
        predicted, target: (B, K, A).
        is_pad: (B, K), True past the episode's end.
    """
    kept = (~is_pad).unsqueeze(-1).to(predicted.dtype)
    return Score(total=((predicted - target).abs() * kept).sum(), count=kept.sum() * predicted.shape[-1])
