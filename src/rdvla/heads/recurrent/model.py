"""The recurrent-depth action head (arXiv 2602.07845, method section), from S_0 to the stop in one file.

    S_pre = Prelude(Q, h_mid, p)                             once
    S_0   ~ TruncNormal(0, gamma_init * 0.632)               0.632 = sqrt(2/5); cut at three std
    x_k   = RMSNorm(gamma_adapt * W_adapt [S_{k-1} ; S_pre])
    S_k   = RMSNorm(Core(x_k, h_late, p))                    weight-tied, r times (`depth` in code)
    a_k   = W_out RMSNorm(Coda(S_k, h_late, p)) + b          last state in training, every one in `predict`

Prelude, core and coda (P, R and C in the paper) are lists of blocks. A block applies self-attention,
cross-attention to the context and SwiGLU. Each reads one level of the backbone, named in the configuration.

Sizes in comments: B batch, K actions in a chunk, A numbers in an action, D width, h heads, E context width
(D in the paper), L latent tokens, M vision tokens, T = L + 1 + M. Next to this file: how deep to train
(depth.py), stop rules (stopping.py).
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
    """What a block reads of the context: `KeysValues`, or an engine's cheaper form."""

    def attend(self, queries: Tensor) -> Tensor:
        """Attend from (B, h, K, D/h) queries to all T tokens, (B, h, K, D/h)."""
        ...


class KeysValues(NamedTuple):
    """One block's keys and values of the context, ordered [latents ; proprio ; vision]."""

    keys: Tensor  # (B, h, T, D/h)
    values: Tensor  # (B, h, T, D/h)

    def attend(self, queries: Tensor) -> Tensor:
        """Attend from (B, h, K, D/h) queries to all T tokens, (B, h, K, D/h)."""
        return F.scaled_dot_product_attention(queries, self.keys, self.values)


@dataclass(frozen=True)
class EncodedContext:
    """What stays constant over the iterations."""

    injection: Tensor  # (B, K, D), the term of S_pre in W_adapt [S ; S_pre]
    core: tuple[BlockContext, ...]  # one for each core block
    coda: tuple[BlockContext, ...]  # one for each coda block


class Rotary(nn.Module):
    """Rotary position embedding over the K action tokens.

    `standard` rotates the pairs (i, i + D/(2h)). Published weights were trained with `neighbour_pairs`, which
    pairs (2i, 2i + 1) but keeps the table of two halves. Its pairs get two angles, so it is no rotation.
    """

    cos: Tensor  # (K, D/h)
    sin: Tensor  # (K, D/h)

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
        else:  # neighbour_pairs
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
        return self.output(merge_heads(F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v)))


class CrossAttention(nn.Module):
    """One softmax over [latents ; proprio ; vision], with the vision logits multiplied by tanh(g).

    At g = 0 all vision tokens score 0: vision is averaged evenly, not ignored.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.latents_kv = nn.Linear(config.context_width, 2 * config.hidden_dim, bias=False)  # and of p
        self.vision_kv = nn.Linear(config.context_width, 2 * config.hidden_dim, bias=False)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.vision_gate = nn.Parameter(torch.tensor([config.vision_gate_init]))  # g

    def project(self, context: Context, level: Level) -> KeysValues:
        """Compute this block's keys and values from one level of the context."""
        latents = torch.cat([context.latents[level], context.proprio], dim=1)  # (B, L + 1, E)
        latents_k, latents_v = self.latents_kv(latents).chunk(2, dim=-1)
        vision_k, vision_v = self.vision_kv(context.vision[level]).chunk(2, dim=-1)
        vision_k = vision_k * torch.tanh(self.vision_gate).to(vision_k.dtype)  # scaled keys scale the logits
        keys, values = torch.cat([latents_k, vision_k], dim=1), torch.cat([latents_v, vision_v], dim=1)
        return KeysValues(  # contiguous, as every iteration reads them
            split_heads(keys, self.num_heads).contiguous(), split_heads(values, self.num_heads).contiguous()
        )

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:  # (B, K, D)
        mixed = context.attend(split_heads(self.query(x), self.num_heads))
        return self.output(merge_heads(mixed))


class SwiGLU(nn.Module):
    """Compute W_down(silu(W_gate x) * W_up x); `gate_up` holds W_gate and W_up."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        inner = config.feedforward_multiple * config.hidden_dim
        self.gate_up = nn.Linear(config.hidden_dim, 2 * inner, bias=False)
        self.down = nn.Linear(inner, config.hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, K, D)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Self-attention, cross-attention and SwiGLU, each after an RMSNorm and with a residual."""

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
        """Draw weights of std sqrt(2 / (5 D)); projections of the context have E for D.

        Every block's `output` and `down` are divided by sqrt(mean_depth * core blocks).
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                width = config.context_width if name.endswith("_kv") else config.hidden_dim
                std = math.sqrt(2 / (5 * width))
                if name.endswith((".output", ".down")):
                    std /= math.sqrt(config.mean_depth * len(config.core))
                truncated_normal_(module.weight, std)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:  # (B, K, D)
        x = x + self.self_attention(self.self_norm(x))
        x = x + self.cross_attention(self.cross_norm(x), context)
        return x + self.feedforward(self.feedforward_norm(x))


class Adapter(nn.Linear):
    """W_adapt [S ; S_pre], written as W_s S + W_pre S_pre, so the constant term is computed once."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(2 * config.hidden_dim, config.hidden_dim, bias=False)

    @torch.no_grad()
    def initialise(self, config: RecurrentConfig) -> None:
        """Draw weights; `near_identity`, not the paper's, is 0.3 of that draw plus [0.9 I, 0.3 I]."""
        truncated_normal_(self.weight, math.sqrt(2 / (5 * config.hidden_dim)))
        if config.adapter_init == "near_identity":
            identity = torch.eye(config.hidden_dim)
            self.weight.mul_(0.3).add_(torch.cat([0.9 * identity, 0.3 * identity], dim=1))

    def constant_term(self, s_pre: Tensor) -> Tensor:
        """Compute W_pre S_pre, (B, K, D)."""
        return F.linear(s_pre, self.weight[:, self.out_features :])

    def forward(self, state: Tensor, constant: Tensor) -> Tensor:  # type: ignore[override]  # both (B, K, D)
        return F.linear(state, self.weight[:, : self.out_features]) + constant


class RecurrentDepthHead(ActionHead):
    """Refines a latent state for as many iterations as needed, and decodes it to an action chunk.

    Example:
        >>> head = RecurrentDepthHead(RecurrentConfig(hidden_dim=64, num_heads=4))
        >>> vision = {"middle": v1, "late": v2}  # (B, M, E) each; latents are alike, p is (B, 1, E)
        >>> context = head.context(vision=vision, latents=latents, proprio=p)
        >>> head.predict(context, stop=8).actions  # (B, K, A) after 8 iterations
        >>> head.predict(context, stop="action_change:1e-3").depth  # (B,) k* of the paper's rule, delta 1e-3
    """

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        D = config.hidden_dim
        self.config = config
        self.state_shape = (config.chunk_size, D)
        self.action_queries = nn.Parameter(truncated_normal_(torch.empty(config.chunk_size, D), 1.0))  # Q
        self.prelude = nn.ModuleList(Block(config) for _ in config.prelude)  # one block per level it names
        self.core = nn.ModuleList(Block(config) for _ in config.core)
        self.coda = nn.ModuleList(Block(config) for _ in config.coda)
        self.adapter = Adapter(config)  # W_adapt
        self.adapter_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.core_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.output_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.output = nn.Linear(D, config.action_dim)  # W_out, b
        self.gamma_init = nn.Parameter(torch.ones(1))
        # Of gamma_adapt the norm keeps only the sign, but for eps; the paper has it.
        self.gamma_adapt = nn.Parameter(torch.ones(1))
        truncated_normal_(self.output.weight, math.sqrt(2 / (5 * D)))
        nn.init.zeros_(self.output.bias)
        self.adapter.initialise(config)

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw S_0, (B, K, D)."""
        # Drawn on the generator's device, so a CPU generator gives the same S_0 everywhere.
        device = self.gamma_init.device if generator is None else generator.device
        noise = torch.empty(batch_size, *self.state_shape, device=device)
        truncated_normal_(noise, self.config.initial_state_std, generator)
        return self.gamma_init * noise.to(self.gamma_init)

    def encode(self, context: Context) -> EncodedContext:
        """Run the prelude, and compute keys and values for every block of core and coda."""
        prelude = keys_and_values(self.prelude, self.config.prelude, context)
        return EncodedContext(
            injection=self.adapter.constant_term(self.run_prelude(prelude, context.batch_size)),
            core=keys_and_values(self.core, self.config.core, context),
            coda=keys_and_values(self.coda, self.config.coda, context),
        )

    def run_prelude(self, contexts: Sequence[BlockContext], batch_size: int) -> Tensor:
        """Compute S_pre from Q, (B, K, D)."""
        s_pre = self.action_queries.expand(batch_size, -1, -1)
        for block, context in zip(self.prelude, contexts, strict=True):
            s_pre = block(s_pre, context)
        return s_pre

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """Compute S_k from S_{k-1}, (B, K, D)."""
        x = self.adapter_norm(self.gamma_adapt * self.adapter(state, encoded.injection))
        for block, context in zip(self.core, encoded.core, strict=True):
            x = block(x, context)
        return self.core_norm(x)

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """Compute a_k from S_k, (B, K, A)."""
        for block, context in zip(self.coda, encoded.coda, strict=True):
            state = block(state, context)
        return self.output(self.output_norm(state))

    def forward(
        self,
        context: Context,
        *,
        depth: int,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Run `depth` iterations; gradient flows through the last `backprop_depth` of them.

        Truncated backpropagation through time: memory stops growing at `backprop_depth`. If `depth` exceeds
        it, gamma_init gets no gradient.

        Returns:
            (B, K, A) normalised actions.
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        state = self.given_or_drawn(initial_state, context, generator)  # S_0
        encoded = self.encode(context)
        for k in range(1, depth + 1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k > depth - self.config.backprop_depth):
                state = self.checkpointed(self.iterate, state, encoded)
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
        """Return the L1 between the last and the demonstrated chunk; `depth` is drawn once for the batch."""
        if depth is None:
            depth = LogNormalPoisson(mean=self.config.mean_depth).sample(generator)
        predicted = self(context, depth=depth, initial_state=initial_state, generator=generator)
        error = absolute_error(predicted.float(), actions, is_pad=is_pad).mean
        return Loss(error, {"loss": error.detach()})

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
        """Return summed L1 after each of `depths` iterations, from one run of the core, for validation."""
        if min(depths) < 1:
            raise ValueError(f"depths must be at least 1, got {list(depths)}")
        state = self.given_or_drawn(initial_state, context, generator)
        encoded = self.encode(context)
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
        """Iterate until each sample's stop rule is satisfied, or its maximum depth is reached.

        Samples that have stopped keep their state, actions and depth, k* in the paper. A fixed depth counts
        as converged.
        """
        state = self.given_or_drawn(initial_state, context, generator)  # S_0
        encoded = self.encode(context)
        limits = limits_on(state.device, stop, batch_size=len(state), max_depth=max_depth)
        actions = self.decode(state, encoded)  # a_0; no rule on actions stops at k = 1
        running = torch.ones(len(state), dtype=torch.bool, device=state.device)  # (B,)
        converged, depth = torch.zeros_like(running), torch.zeros_like(running, dtype=torch.int64)
        for k in range(1, limits.last + 1):
            next_state = self.iterate(state, encoded)
            next_actions = self.decode(next_state, encoded)
            met = satisfied(limits, Iteration(state, actions), Iteration(next_state, next_actions))
            stopped = running & met & (k >= limits.min_depth)
            state = torch.where(running[:, None, None], next_state, state)
            actions = torch.where(running[:, None, None], next_actions, actions)
            depth = depth + running
            converged = converged | stopped
            running = running & ~stopped & (k < limits.max_depth)
            if not running.any():
                break
        return Prediction(actions=actions, depth=depth, converged=converged, state=state)


def keys_and_values(
    blocks: nn.ModuleList, levels: Sequence[Level], context: Context
) -> tuple[KeysValues, ...]:
    """Compute every block's keys and values; block i reads `levels[i]`."""
    pairs = zip(cast("Sequence[Block]", blocks), levels, strict=True)
    return tuple(block.cross_attention.project(context, level) for block, level in pairs)


def split_heads(x: Tensor, num_heads: int) -> Tensor:  # (B, N, D) -> (B, h, N, D/h)
    """Split the width over the attention heads."""
    return x.view(*x.shape[:2], num_heads, x.shape[2] // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:  # (B, h, N, D/h) -> (B, N, D)
    """Undo `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def truncated_normal_(x: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Fill x with a normal distribution of mean 0 cut at three standard deviations, and return it."""
    return nn.init.trunc_normal_(x, std=std, a=-3 * std, b=3 * std, generator=generator)
