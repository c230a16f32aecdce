"""What the head returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """What happened in each of T iterations; NaN after a sample stopped, and in a change's first entry."""

    actions: Tensor  # (T, B, K, A), the coda's reading of every state
    action_change: Tensor  # (T, B), mean((a_k - a_{k-1})^2)
    latent_change: Tensor  # (T, B), |S_k - S_{k-1}| / |S_k|
    cosine_change: Tensor  # (T, B), 1 - cos(S_k, S_{k-1})


@dataclass(frozen=True)
class Prediction:
    """One action chunk per sample, and how it came about."""

    actions: Tensor  # (B, K, A); normalised units from a head, real units from a policy
    depth: Tensor  # (B,) int64, k*: the number of iterations used
    converged: Tensor  # (B,) bool: the stop rule was satisfied; False where the maximum depth ended it
    state: Tensor  # (B, K, D), the final latent state S_k*
    trace: Trace | None = None  # on request
