"""S_0 as the latent of a mode: of several initial states, the one that comes nearest is trained.

Implicit maximum likelihood (Li and Malik, arXiv 1809.09087; for policies: Rana et al., arXiv 2502.12371). L1
averages two equally good ways. If every demonstration trains only the initial state that ends nearest to it,
others stay free to end at the other way. Memory stays constant: iterations that look for the nearest one keep
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rdvla.heads.base import Context
from rdvla.heads.recurrent.model import RecurrentDepthHead


def nearest_initial_state(
    head: RecurrentDepthHead,
    context: Context,
    actions: Tensor,
    *,
    is_pad: Tensor,
    depth: int,
    candidates: Sequence[Tensor],
) -> Tensor:
    """Return each sample's candidate whose chunk after `depth` iterations has the smallest L1, (B, K, D).

    The iterations run without gradient. Of equally near candidates the first is taken.

    Args:
        head: in the mode (training or evaluation) that its loss is computed in.
        context: features of B observations.
        actions: (B, K, A) demonstrated chunks, normalised.
        is_pad: (B, K) bool, True past the end of the episode.
        depth: iterations, at least 1.
        candidates: initial states, (B, K, D) each; one or more.
    """
    distances = []
    with torch.no_grad():
        encoded = head.encode(context)
        for state in candidates:
            for _ in range(depth):
                state = head.iterate(state, encoded)
            error = (head.decode(state, encoded).float() - actions).abs()
            distances.append(error.masked_fill(is_pad.unsqueeze(-1), 0.0).sum(dim=(1, 2)))  # (B,)
        nearest = torch.stack(distances).argmin(dim=0)  # (B,)
    return torch.stack(list(candidates))[nearest, torch.arange(len(nearest), device=nearest.device)]
