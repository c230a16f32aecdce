"""Sizes and choices of the recurrent-depth head. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rdvla.errors import ConfigError, require_range
from rdvla.heads.config import HeadConfig, Level

if TYPE_CHECKING:
    from rdvla.heads.recurrent.model import RecurrentDepthHead

RotaryForm = Literal["standard", "neighbour_pairs"]
MOST_BLOCKS = 256  # of a part; more would be built for minutes
LARGEST = 2**20  # of a size; a file is compared with its weights besides

AdapterInit = Literal["truncated_normal", "near_identity"]


@HeadConfig.register_subclass("recurrent")
@dataclass(frozen=True)
class RecurrentConfig(HeadConfig):  # type: ignore[no-untyped-call]
    """Configuration of `RecurrentDepthHead`; the defaults are the paper's (72.3 M parameters).

    Each entry of `prelude`, `core` and `coda` is one block and names the context level that it reads, so the
    number of entries is the number of blocks. Prelude and coda may be empty. A single-pass head is trained
    with `rdvla train --depth.distribution constant --depth.mean 1`; so is an untied head of n blocks, whose
    `core` has n entries.
    """

    hidden_dim: int = 896  # D, width of the latent state
    num_heads: int = 8  # attention heads; each must have an even width for the rotary embedding
    context_dim: int | None = None  # width of vision, latent, proprio tokens; None: hidden_dim (paper)
    prelude: tuple[Level, ...] = ("middle",)  # P, run once
    core: tuple[Level, ...] = ("late", "late")  # R, weight-tied, run r times
    coda: tuple[Level, ...] = ("late",)  # C, decodes a state to actions
    feedforward_multiple: int = 4  # inner width of SwiGLU over D
    rotary: RotaryForm = "standard"  # neighbour_pairs: the form that published weights were trained with
    rotary_base: float = 10_000.0
    norm_eps: float = 1e-6
    initial_state_std: float = 0.632  # sqrt(2/5), of S_0 before gamma_init and the cut
    vision_gate_init: float = 0.0  # g: vision logits are multiplied by tanh(g)
    adapter_init: AdapterInit = "truncated_normal"  # near_identity: x_1 starts near 0.9 S_0 + 0.3 S_pre
    mean_depth: int = 32  # m of the training depth distribution; also scales the output projections
    backprop_depth: int = 8  # d: gradient flows through the last d iterations

    training_fields: ClassVar[tuple[str, ...]] = (
        "mean_depth", "backprop_depth", "vision_gate_init", "adapter_init"
    )  # fmt: skip
    card_title: ClassVar[str] = "A recurrent-depth vision-language-action policy"
    card_summary: ClassVar[str] = (
        "From camera images, proprioception and an instruction to a chunk of actions, refined in latent "
        "space for\nas many iterations as the moment needs ([paper](https://arxiv.org/abs/2602.07845))."
    )
    card_tags: ClassVar[tuple[str, ...]] = ("recurrent-depth",)

    def __post_init__(self) -> None:
        for field in (
            "hidden_dim", "num_heads", "chunk_size", "feedforward_multiple", "mean_depth", "backprop_depth",
        ):  # fmt: skip
            if getattr(self, field) < 1:
                raise ConfigError(f"head.{field} must be at least 1, got {getattr(self, field)}")
        self._check_ranges()
        if self.action_dim < 0:
            raise ConfigError(f"head.action_dim must not be negative, got {self.action_dim}")
        if self.context_dim is not None and self.context_dim < 1:
            raise ConfigError(f"head.context_dim must be at least 1 or null, got {self.context_dim}")
        if self.hidden_dim % self.num_heads:
            raise ConfigError(
                f"head.hidden_dim ({self.hidden_dim}) must be a multiple of head.num_heads ({self.num_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"the width of one attention head, hidden_dim / num_heads = {self.head_dim}, "
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

    def _check_ranges(self) -> None:
        for field, largest in (("norm_eps", 1.0), ("initial_state_std", 1e3)):
            require_range(f"head.{field}", getattr(self, field), above=0, most=largest)
        require_range("head.rotary_base", self.rotary_base, least=1, most=1e12)
        for field in ("prelude", "core", "coda"):
            require_range(f"head.{field}: the number of blocks", len(getattr(self, field)), most=MOST_BLOCKS)
        for field in ("hidden_dim", "chunk_size", "action_dim", "feedforward_multiple", "mean_depth"):
            require_range(f"head.{field}", getattr(self, field), most=LARGEST)
        require_range("head.vision_gate_init", abs(self.vision_gate_init), most=1e3)

    def make(self) -> RecurrentDepthHead:
        """Build the head with fresh weights."""
        from rdvla.heads.recurrent.model import RecurrentDepthHead

        return RecurrentDepthHead(self)

    @property
    def head_dim(self) -> int:
        """D / h, the width of one attention head."""
        return self.hidden_dim // self.num_heads

    @property
    def context_width(self) -> int:
        """C, the width of the context tokens: `context_dim`, or `hidden_dim` if that is not set."""
        return self.hidden_dim if self.context_dim is None else self.context_dim

    @property
    def levels(self) -> tuple[Level, ...]:
        """The context levels that some block reads, each once, in order of first use."""
        return tuple(dict.fromkeys((*self.prelude, *self.core, *self.coda)))

    @property
    def levels_by_part(self) -> dict[str, list[Level]]:
        """The context levels that prelude, core and coda read, one per block."""
        return {"prelude": list(self.prelude), "core": list(self.core), "coda": list(self.coda)}

    @property
    def mean_training_depth(self) -> int:
        """Iterations of an update on average."""
        return self.mean_depth

    @property
    def gradient_depth(self) -> int:
        """d, iterations that gradient flows through at most."""
        return self.backprop_depth

    @property
    def facts(self) -> dict[str, str]:
        """What else a model card says about the head, by title."""
        return {
            "width of the latent state": str(self.hidden_dim),
            "mean depth in training": str(self.mean_depth),
        }
