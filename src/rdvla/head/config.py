"""Sizes and choices of the recurrent-depth head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rdvla.errors import ConfigError

Level = int | str
"""Name of a context level: a layer number of the backbone, or a word such as ``middle`` or ``late``."""

RotaryForm = Literal["standard", "neighbour_pairs"]
AdapterInit = Literal["truncated_normal", "near_identity"]


# Fields of the configuration that say how a head is initialised or trained, not what its weights mean.
TRAINING_FIELDS = ("mean_depth", "backprop_depth", "vision_gate_init", "adapter_init")


@dataclass(frozen=True)
class HeadConfig:
    """Configuration of `RecurrentDepthHead`; the defaults are the paper's (72.3 M parameters).

    Each entry of `prelude`, `core` and `coda` is one block and names the context level that it reads,
    so that the number of entries is the number of blocks. Prelude and coda may be empty.
    """

    hidden_dim: int = 896  # D, width of the latent state
    num_heads: int = 8  # attention heads; each must have an even width for the rotary embedding
    chunk_size: int = 8  # K, actions in a chunk
    action_dim: int = 7  # A, numbers in an action
    context_dim: int | None = None  # width of vision, latent, proprio tokens; None: hidden_dim (paper)
    prelude: tuple[Level, ...] = ("middle",)  # P, run once
    core: tuple[Level, ...] = ("late", "late")  # R, weight-tied, run r times
    coda: tuple[Level, ...] = ("late",)  # C, run once on the final state
    feedforward_multiple: int = 4  # inner width of SwiGLU over D
    rotary: RotaryForm = "standard"  # neighbour_pairs: the form that published weights were trained with
    rotary_base: float = 10_000.0
    norm_eps: float = 1e-6
    initial_state_std: float = 0.632  # sqrt(2/5), standard deviation of S_0 before gamma_init
    vision_gate_init: float = 0.0  # g: vision logits are multiplied by tanh(g)
    adapter_init: AdapterInit = "truncated_normal"  # near_identity: x_1 starts close to a mix of S_0, S_pre
    mean_depth: int = 32  # m of the training depth distribution; also scales the output projections
    backprop_depth: int = 8  # d, the last iterations that gradient flows through

    def __post_init__(self) -> None:
        for field in (
            "hidden_dim", "num_heads", "chunk_size", "action_dim", "feedforward_multiple", "mean_depth"
        ):  # fmt: skip
            if getattr(self, field) < 1:
                raise ConfigError(f"head.{field} must be at least 1, got {getattr(self, field)}")
        if self.backprop_depth < 1:
            raise ConfigError(f"head.backprop_depth must be at least 1, got {self.backprop_depth}")
        if self.context_dim is not None and self.context_dim < 1:
            raise ConfigError(f"head.context_dim must be at least 1 or null, got {self.context_dim}")
        if self.hidden_dim % self.num_heads:
            raise ConfigError(
                f"head.hidden_dim ({self.hidden_dim}) must be a multiple of head.num_heads ({self.num_heads})"
            )
        head_dim = self.hidden_dim // self.num_heads
        if head_dim % 2:
            raise ConfigError(
                f"the width of one attention head, hidden_dim / num_heads = {head_dim}, "
                "must be even for the rotary embedding"
            )
        if not self.core:
            raise ConfigError(
                "head.core needs at least one block; name the context level that it reads, e.g. [late]"
            )
        if self.rotary not in ("standard", "neighbour_pairs"):
            raise ConfigError(f"head.rotary must be 'standard' or 'neighbour_pairs', got {self.rotary!r}")
        if self.adapter_init not in ("truncated_normal", "near_identity"):
            raise ConfigError(
                f"head.adapter_init must be 'truncated_normal' or 'near_identity', got {self.adapter_init!r}"
            )

    @property
    def context_width(self) -> int:
        """Width of the context tokens: `context_dim`, or `hidden_dim` where that is not set."""
        return self.hidden_dim if self.context_dim is None else self.context_dim

    @property
    def levels(self) -> tuple[Level, ...]:
        """The context levels that some block reads, each once, in order of first use."""
        return tuple(dict.fromkeys((*self.prelude, *self.core, *self.coda)))

    @property
    def weight_std(self) -> float:
        """Standard deviation of freshly drawn weights, sqrt(2 / (5 D))."""
        return math.sqrt(2 / (5 * self.hidden_dim))

    @property
    def output_scale(self) -> float:
        """What output projections are divided by, sqrt(mean_depth * core_blocks)."""
        return math.sqrt(self.mean_depth * len(self.core))
