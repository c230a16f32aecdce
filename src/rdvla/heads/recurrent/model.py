"""The recurrent-depth action head, all of it in this file (arXiv 2602.07845, method section).

    S_pre = P(Q, h_mid)                                  prelude, once
    S_0   ~ TruncNormal(0, gamma_init * 0.632)           cut at three standard deviations
    x_k   = RMSNorm(gamma_adapt * W_adapt [S_{k-1} ; S_pre])
    S_k   = RMSNorm(R(x_k, h_late, p))                   core, weight-tied, r times
    a     = W_out RMSNorm(C(S_r, h_late, p)) + b         coda, once

Sizes in comments: B batch, K actions in a chunk, A numbers in an action, D width, h heads, C context width,
L latent tokens, M vision tokens, T = L + 1 + M. What h_mid, h_late and p are: `rdvla.heads.base.Context`.
How deep to train: depth.py. When to stop: stopping.py. `rdvla.engine` runs the same steps faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdvla.control import Stops
from rdvla.heads.base import ActionHead, Context, Loss, Score, absolute_error
from rdvla.heads.config import Level
from rdvla.heads.recurrent.config import RecurrentConfig
from rdvla.heads.recurrent.depth import LogNormalPoisson
from rdvla.heads.recurrent.stopping import Iteration, limits_on, satisfied
from rdvla.types import Prediction


class BlockContext(Protocol):
    """A query's context in the form that one block reads. It is constant over iterations."""

    def attend(self, queries: Tensor) -> Tensor:
        """Attend from (B, h, K, D/h) queries to all T tokens, (B, h, K, D/h)."""
        ...


class KeysValues(NamedTuple):
    """Keys and values of the context for one block, ordered [latents ; proprio ; vision]."""

    keys: Tensor  # (B, h, T, D/h)
    values: Tensor  # (B, h, T, D/h)

    def attend(self, queries: Tensor) -> Tensor:
        """Attend from (B, h, K, D/h) queries to all T tokens, (B, h, K, D/h)."""
        return F.scaled_dot_product_attention(queries, self.keys, self.values)


@dataclass(frozen=True)
class EncodedContext:
    """Everything about a query that is constant over iterations, so computed once."""

    injection: Tensor  # (B, K, D), the S_pre half of W_adapt [S ; S_pre]
    core: tuple[BlockContext, ...]  # per core block
    coda: tuple[BlockContext, ...]  # per coda block


class Rotary(nn.Module):
    """Rotary position embedding over the K action tokens.

    `standard` rotates the pairs (i, i + D/2h). `neighbour_pairs` is the form of the published weights:
    cosines and sines lie in two halves while the rotated pairs are neighbours (2i, 2i + 1): no true rotation.
    """

    cos: Tensor  # (K, D/h)
    sin: Tensor

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.form = config.rotary
        exponents = -torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        angles = torch.arange(config.chunk_size, dtype=torch.float64)[:, None] * config.rotary_base**exponents
        angles = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, h, K, D/h)
        if self.form == "standard":
            first, second = x.chunk(2, dim=-1)
            rotated = torch.cat([-second, first], dim=-1)
        else:
            rotated = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
        return x * self.cos.to(x.dtype) + rotated * self.sin.to(x.dtype)


class SelfAttention(nn.Module):
    """Self-attention over the K action tokens with rotary positions."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_dim, 3 * config.hidden_dim, bias=False)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.rotary = Rotary(config)

    def forward(self, x: Tensor) -> Tensor:  # (B, K, D)
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v)
        out: Tensor = self.output(merge_heads(mixed))
        return out


class CrossAttention(nn.Module):
    """One softmax over [latents ; proprio ; vision], with the vision logits multiplied by tanh(g)."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.latents_kv = nn.Linear(config.context_width, 2 * config.hidden_dim, bias=False)  # also of p
        self.vision_kv = nn.Linear(config.context_width, 2 * config.hidden_dim, bias=False)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.vision_gate = nn.Parameter(torch.tensor([config.vision_gate_init]))  # g

    def project(self, context: Context, level: Level) -> KeysValues:
        """Compute keys and values of one level of the context."""
        near = torch.cat([context.latents[level], context.proprio], dim=1)  # (B, L + 1, C)
        near_k, near_v = self.latents_kv(near).chunk(2, dim=-1)
        far_k, far_v = self.vision_kv(context.vision[level]).chunk(2, dim=-1)
        far_k = far_k * torch.tanh(self.vision_gate).to(far_k.dtype)  # scaling keys scales their logits
        return KeysValues(
            split_heads(torch.cat([near_k, far_k], dim=1), self.num_heads).contiguous(),
            split_heads(torch.cat([near_v, far_v], dim=1), self.num_heads).contiguous(),
        )

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:  # (B, K, D)
        out: Tensor = self.output(merge_heads(context.attend(split_heads(self.query(x), self.num_heads))))
        return out


class SwiGLU(nn.Module):
    """Feed-forward W_down(silu(W_gate x) * W_up x)."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        inner = config.feedforward_multiple * config.hidden_dim
        self.gate_up = nn.Linear(config.hidden_dim, 2 * inner, bias=False)
        self.down = nn.Linear(inner, config.hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, K, D)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Block(nn.Module):
    """Pre-norm: self-attention, cross-attention to the context, SwiGLU, a residual around each."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.self_norm = nn.RMSNorm(config.hidden_dim, eps=config.norm_eps)
        self.self_attention = SelfAttention(config)
        self.cross_norm = nn.RMSNorm(config.hidden_dim, eps=config.norm_eps)
        self.cross_attention = CrossAttention(config)
        self.feedforward_norm = nn.RMSNorm(config.hidden_dim, eps=config.norm_eps)
        self.feedforward = SwiGLU(config)
        self._initialise(config)

    def _initialise(self, config: RecurrentConfig) -> None:
        """Draw from a truncated normal, std sqrt(2 / 5 width); output projections have a smaller one."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = weight_std(config.context_width if name.endswith("_kv") else config.hidden_dim)
                if name.endswith((".output", ".down")):
                    std /= math.sqrt(config.mean_depth * len(config.core))
                truncated_normal_(module.weight, std)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:  # (B, K, D)
        x = x + self.self_attention(self.self_norm(x))
        x = x + self.cross_attention(self.cross_norm(x), context)
        out: Tensor = x + self.feedforward(self.feedforward_norm(x))
        return out


class Adapter(nn.Linear):
    """W_adapt [S ; S_pre] = W_s S + W_p S_pre, whose second term is constant over iterations."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(2 * config.hidden_dim, config.hidden_dim, bias=False)

    @torch.no_grad()
    def initialise(self, config: RecurrentConfig) -> None:
        """Draw the weights as the configuration says."""
        truncated_normal_(self.weight, weight_std(config.hidden_dim))
        if config.adapter_init == "near_identity":
            identity = torch.eye(config.hidden_dim)
            self.weight.mul_(0.3).add_(torch.cat([0.9 * identity, 0.3 * identity], dim=1))

    def inject(self, prelude: Tensor) -> Tensor:
        """Compute the constant term from S_pre, (B, K, D)."""
        return F.linear(prelude, self.weight[:, self.out_features :])

    def forward(self, state: Tensor, injection: Tensor) -> Tensor:  # type: ignore[override]  # (B, K, D) each
        return F.linear(state, self.weight[:, : self.out_features]) + injection


class RecurrentDepthHead(ActionHead):
    """Refines an action chunk in latent space for as many iterations as asked.

    Example:
        >>> head = RecurrentDepthHead(RecurrentConfig(hidden_dim=64, num_heads=4))
        >>> context = head.context(vision={"middle": v1, "late": v2}, latents={...}, proprio=p)
        >>> head.predict(context, stop=8).actions  # (B, K, A)
        >>> head.predict(context, stop="action_change:1e-3").depth  # (B,)
    """

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        D = config.hidden_dim
        self.config = config
        self.action_queries = nn.Parameter(truncated_normal_(torch.empty(config.chunk_size, D), 1.0))  # Q
        self.prelude = nn.ModuleList(Block(config) for _ in config.prelude)  # P
        self.core = nn.ModuleList(Block(config) for _ in config.core)  # R
        self.coda = nn.ModuleList(Block(config) for _ in config.coda)  # C
        self.adapter = Adapter(config)  # W_adapt
        self.adapter_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.core_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.output_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.output = nn.Linear(D, config.action_dim)  # W_out, b
        self.gamma_init = nn.Parameter(torch.ones(1))
        self.gamma_adapt = nn.Parameter(torch.ones(1))
        truncated_normal_(self.output.weight, weight_std(D))
        nn.init.zeros_(self.output.bias)
        self.adapter.initialise(config)

    @property
    def state_shape(self) -> tuple[int, int]:
        """(K, D)."""
        return self.config.chunk_size, self.config.hidden_dim

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw S_0, (B, K, D)."""
        # Noise is drawn where the generator lives, so a CPU seed gives the same actions on every device.
        device = self.gamma_init.device if generator is None else generator.device
        noise = torch.empty(batch_size, *self.state_shape, device=device)
        truncated_normal_(noise, self.config.initial_state_std, generator)
        return self.gamma_init * noise.to(self.gamma_init)

    def encode(self, context: Context) -> EncodedContext:
        """Run the prelude, and project the context for every block of core and coda."""
        state = self.run_prelude(project_for(self.prelude, self.config.prelude, context), context.batch_size)
        return EncodedContext(
            injection=self.adapter.inject(state),
            core=project_for(self.core, self.config.core, context),
            coda=project_for(self.coda, self.config.coda, context),
        )

    def run_prelude(self, contexts: Sequence[BlockContext], batch_size: int) -> Tensor:
        """Q -> S_pre, (B, K, D)."""
        state = self.action_queries.expand(batch_size, -1, -1)
        for block, context in zip(self.prelude, contexts, strict=True):
            state = block(state, context)
        return state

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """S_{k-1} -> S_k, (B, K, D)."""
        x: Tensor = self.adapter_norm(self.gamma_adapt * self.adapter(state, encoded.injection))
        for block, context in zip(self.core, encoded.core, strict=True):
            x = block(x, context)
        out: Tensor = self.core_norm(x)
        return out

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """S_k -> a_k, (B, K, A)."""
        for block, context in zip(self.coda, encoded.coda, strict=True):
            state = block(state, context)
        actions: Tensor = self.output(self.output_norm(state))
        return actions

    def forward(
        self,
        context: Context,
        *,
        depth: int,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Run the training pass: `depth` iterations, gradient through the last `backprop_depth` only.

        Truncated backpropagation through time: memory grows with min(depth, backprop_depth). Prelude, context
        projections and coda always get gradient.

        Returns:
            (B, K, A) normalised actions.
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        state = self.checked_state(context, initial_state, generator)
        encoded = self.encode(context)
        for k in range(depth):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k >= depth - self.config.backprop_depth):
                state = self.iterate(state, encoded)
        return self.decode(state, encoded)

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
        """Return the L1 between the chunk after the last iteration and the demonstrated one."""
        if depth is None:
            depth = LogNormalPoisson(mean=self.config.mean_depth).sample(generator)
        predicted = self(context, depth=depth, initial_state=initial_state, generator=generator)
        error = absolute_error(predicted.float(), actions, is_pad=is_pad)
        total = error.total / error.count
        return Loss(total, {"loss": total.detach()})

    @torch.no_grad()
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
        """Return the L1 at every depth of `depths`, from one run of the core."""
        state, encoded = self.checked_state(context, initial_state, generator), self.encode(context)
        found = {}
        for depth in range(1, max(depths) + 1):
            state = self.iterate(state, encoded)
            if depth in depths:
                found[depth] = absolute_error(self.decode(state, encoded).float(), actions, is_pad=is_pad)
        return {depth: found[depth] for depth in depths}

    @torch.no_grad()
    def predict(
        self,
        context: Context,
        *,
        stop: Stops,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Iterate until every sample's own stop rule is satisfied; faster engines are held to this."""
        state, encoded = self.checked_state(context, initial_state, generator), self.encode(context)
        limits = limits_on(state.device, stop, batch_size=len(state), max_depth=max_depth)
        actions = self.decode(state, encoded)
        running = torch.ones(len(state), dtype=torch.bool, device=state.device)
        depth, converged = torch.zeros_like(running, dtype=torch.int64), torch.zeros_like(running)
        for k in range(1, limits.last + 1):
            previous = Iteration(state, actions)
            next_state = self.iterate(state, encoded)
            next_actions = self.decode(next_state, encoded)
            settled = satisfied(limits, previous, Iteration(next_state, next_actions))
            stopped = running & settled & (k >= limits.min_depth)
            # Samples that have ended keep their result.
            state = torch.where(running[:, None, None], next_state, state)
            actions = torch.where(running[:, None, None], next_actions, actions)
            depth, converged = depth + running, converged | stopped
            running = running & ~stopped & (k < limits.max_depth)
            if not running.any():
                break
        return Prediction(actions, depth, converged, state)

    def kept_per_query(self, context: Context) -> list[Tensor]:
        """Return keys and values of all blocks of core and coda."""
        parts = ((self.core, self.config.core), (self.coda, self.config.coda))
        return [x for blocks, levels in parts for each in project_for(blocks, levels, context) for x in each]


def project_for(blocks: nn.ModuleList, levels: Sequence[Level], context: Context) -> tuple[KeysValues, ...]:
    """Compute keys and values of the context for every block, which reads the level of the same place."""
    pairs = zip(cast("Sequence[Block]", blocks), levels, strict=True)
    return tuple(block.cross_attention.project(context, level) for block, level in pairs)


def split_heads(x: Tensor, num_heads: int) -> Tensor:  # (B, T, D) -> (B, h, T, D/h)
    """Give every attention head its share of the width."""
    batch, tokens, width = x.shape
    return x.view(batch, tokens, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:  # (B, h, T, D/h) -> (B, T, D)
    """Undo `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def weight_std(width: int) -> float:
    """Standard deviation of fresh weights that read `width` numbers."""
    return math.sqrt(2 / (5 * width))


def truncated_normal_(x: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Fill with a normal distribution of mean 0 cut at three standard deviations."""
    return nn.init.trunc_normal_(x, std=std, a=-3 * std, b=3 * std, generator=generator)
