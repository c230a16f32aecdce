"""The recurrent-depth action head: prelude once, weight-tied core r times, coda (paper, method section).

S_pre = P(Q, h_mid)
S_0   ~ TruncNormal(0, gamma_init * 0.632)
x_k   = RMSNorm(gamma_adapt * W_adapt [S_{k-1} ; S_pre])
S_k   = RMSNorm(R(x_k, h_late, p))
a     = W_out RMSNorm(C(S_r, h_late, p)) + b
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rdvla.errors import RDVLAError
from rdvla.head.adapter import Adapter
from rdvla.head.block import Block, truncated_normal_
from rdvla.head.compiled import CompiledSteps, Precision
from rdvla.head.config import HeadConfig, Level
from rdvla.head.context import Context, build_context
from rdvla.head.cross_attention import BlockContext
from rdvla.head.prediction import Prediction
from rdvla.head.solver import solve
from rdvla.head.steps import EncodedContext, Steps
from rdvla.head.stopping import StopRule, as_rule


class RecurrentDepthHead(nn.Module):
    """Refines an action chunk in latent space for as many iterations as asked.

    Example:
        >>> head = RecurrentDepthHead(HeadConfig(hidden_dim=64, num_heads=4))
        >>> context = head.context(vision={"middle": v1, "late": v2}, latents={...}, proprio=p)
        >>> head(context, depth=8).actions  # (B, K, A)
        >>> head(context, depth=ActionChange(1e-3)).depth  # (B,)
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.action_queries = nn.Parameter(truncated_normal_(torch.empty(config.chunk_size, width), 1.0))  # Q
        self.prelude = nn.ModuleList(Block(config) for _ in config.prelude)  # P
        self.core = nn.ModuleList(Block(config) for _ in config.core)  # R
        self.coda = nn.ModuleList(Block(config) for _ in config.coda)  # C
        self.adapter = Adapter(config)  # W_adapt
        self.adapter_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.core_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.output_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.output = nn.Linear(width, config.action_dim)  # W_out, b
        self.gamma_init = nn.Parameter(torch.ones(1))
        self.gamma_adapt = nn.Parameter(torch.ones(1))
        truncated_normal_(self.output.weight, config.weight_std)
        nn.init.zeros_(self.output.bias)
        self.adapter.initialise(config)
        self._optimized: Steps | None = None
        self.register_load_state_dict_post_hook(_forget_compiled)  # type: ignore[no-untyped-call]

    def optimize(self, *, precision: Precision = "fp32") -> None:
        """Predict with compiled code from now on, until the head is trained, moved, or loaded into.

        The code holds the weights: what changes them in another way does not reach it.

        Compiling takes up to a minute, at the first prediction with one sample and again with several.

        Args:
            precision: of the matrix products; ``bf16`` is faster and moves actions by 5e-3 to 1e-2.

        Raises:
            RDVLAError: the head is being trained.
        """
        self.use(CompiledSteps(self, precision=precision))

    def use(self, steps: Steps) -> None:
        """Predict with another form of these steps, until the head is trained, moved, or loaded into.

        Raises:
            RDVLAError: the head is being trained.
        """
        if self.training:
            raise RDVLAError("compiled code is for weights that do not change any more: call eval() first")
        self._optimized = steps

    @property
    def optimized(self) -> bool:
        """Whether compiled code predicts, at the moment."""
        return self._optimized is not None

    def train(self, mode: bool = True) -> RecurrentDepthHead:  # noqa: FBT001
        """Weights are about to change: compiled code, which holds them, is dropped."""
        if mode:
            self._optimized = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles: these have weights of their own, and no code for them yet."""
        state: dict[str, object] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state | {"_optimized": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RecurrentDepthHead:  # noqa: FBT001
        self._optimized = None  # `to`, `half` and their like: the code is for the old device and type
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def context(
        self, *, vision: Mapping[Level, Tensor], latents: Mapping[Level, Tensor], proprio: Tensor
    ) -> Context:
        """Collect a backbone's features, by level, into the context of a query.

        Args:
            vision: level -> (B, M, C).
            latents: level -> (B, L, C).
            proprio: (B, 1, C).

        Raises:
            ValueError: a level that some block reads is missing, or a shape does not fit.
        """
        return build_context(self.config, vision=vision, latents=latents, proprio=proprio)

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`."""
        state = self.action_queries.expand(context.batch_size, -1, -1)  # (B, K, D)
        prelude = _block_contexts(self.prelude, self.config.prelude, context, reads=1)
        for block, block_context in zip(self.prelude, prelude, strict=True):
            state = block(state, block_context)
        return EncodedContext(
            injection=self.adapter.of_prelude(state),
            core=_block_contexts(self.core, self.config.core, context, reads=None),
            coda=self.coda_contexts(context, coda_reads=coda_reads),
        )

    def coda_contexts(self, context: Context, *, coda_reads: int | None) -> tuple[BlockContext, ...]:
        """The coda's part of `encode`, which needs no prelude."""
        return _block_contexts(self.coda, self.config.coda, context, reads=coda_reads)

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """S_0, (B, K, D), decided by the generator's state; a sample's draw follows the one before it."""
        config = self.config
        noise = torch.empty(
            batch_size, config.chunk_size, config.hidden_dim, device=_device_of(self, generator)
        )
        truncated_normal_(noise, config.initial_state_std, generator)
        return self.gamma_init * noise.to(self.gamma_init)

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """One iteration of the core, S_{k-1} -> S_k, (B, K, D)."""
        mixed = self.adapter.of_state(state) + encoded.injection
        x: Tensor = self.adapter_norm(self.gamma_adapt * mixed)
        for block, block_context in zip(self.core, encoded.core, strict=True):
            x = block(x, block_context)
        out: Tensor = self.core_norm(x)
        return out

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """Read the actions off a state, (B, K, D) -> (B, K, A), normalised units."""
        for block, block_context in zip(self.coda, encoded.coda, strict=True):
            state = block(state, block_context)
        actions: Tensor = self.output(self.output_norm(state))
        return actions

    @torch.no_grad()
    def forward(
        self,
        context: Context,
        *,
        depth: int | StopRule,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
    ) -> Prediction:
        """Inference: iterate to a fixed depth, or until a stop rule is satisfied for each sample by itself.

        No gradient is kept, so that memory does not grow with depth; `unroll` is the training pass.

        Args:
            context: from `context(...)`.
            depth: number of iterations, or a rule from `rdvla.head.stopping`.
            initial_state: S_0, (B, K, D); drawn if not given.
            generator: where S_0 is drawn from.
            trace: also return every iteration's actions and changes (runs the coda in every iteration).
        """
        state = self._check_state(context, initial_state, generator)
        rule = as_rule(depth)
        steps = self._optimized or self
        encoded = steps.encode(context, coda_reads=None if trace else rule.coda_reads)
        return solve(steps, encoded, rule=rule, initial_state=state, trace=trace)

    def unroll(
        self,
        context: Context,
        *,
        depth: int,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Training: `depth` iterations with gradient through the last `backprop_depth` only (truncated BPTT).

        The prelude, the context's keys and values and the coda always get gradient. Memory grows with
        min(depth, backprop_depth).
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        state = self._check_state(context, initial_state, generator)
        encoded = self.encode(context, coda_reads=1)
        free = max(0, depth - self.config.backprop_depth)
        with torch.no_grad():
            for _ in range(free):
                state = self.iterate(state, encoded)
        for _ in range(depth - free):
            state = self.iterate(state, encoded)
        return Prediction(
            actions=self.decode(state, encoded),
            depth=torch.full((context.batch_size,), depth, device=state.device),
            converged=torch.ones(context.batch_size, dtype=torch.bool, device=state.device),
            state=state,
        )

    def _check_state(
        self, context: Context, initial_state: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        if initial_state is None:
            return self.initial_state(context.batch_size, generator)
        expected = (context.batch_size, self.config.chunk_size, self.config.hidden_dim)
        if tuple(initial_state.shape) != expected:
            raise ValueError(f"initial_state must be {expected}, got {tuple(initial_state.shape)}")
        return initial_state


def _block_contexts(
    blocks: nn.ModuleList, levels: tuple[Level, ...], context: Context, *, reads: int | None
) -> tuple[BlockContext, ...]:
    return tuple(
        _block_context(block, level, context, reads) for block, level in zip(blocks, levels, strict=True)
    )


def _block_context(block: nn.Module, level: Level, context: Context, reads: int | None) -> BlockContext:
    assert isinstance(block, Block)
    return block.cross_attention.context_for(
        vision=context.vision[level], latents=context.latents[level], proprio=context.proprio, reads=reads
    )


def _device_of(head: RecurrentDepthHead, generator: torch.Generator | None) -> torch.device:
    # Noise is drawn where the generator lives, so that a CPU seed gives the same actions on every device.
    return generator.device if generator is not None else head.gamma_init.device


def _forget_compiled(head: RecurrentDepthHead, _incompatible_keys: object) -> None:
    head._optimized = None
