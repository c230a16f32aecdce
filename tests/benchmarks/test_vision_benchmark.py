"""The benchmark of a query at the paper's size, run on a tiny model."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks import vision
from rdvla.heads import RecurrentConfig
from tests.support.published_checkpoint import BACKBONE


def test_encoders_and_head_give_the_whole_query() -> None:
    config = replace(BACKBONE, levels=(2, BACKBONE.language.layers))
    head = RecurrentConfig(hidden_dim=16, num_heads=2, context_dim=config.language.width)
    with torch.no_grad():
        calls = vision.calls(config, head)
        whole = calls[vision.WHOLE]()
        torch.testing.assert_close(calls["head"](), whole)
        together, apart = calls["image encoders"](), calls["image encoders, camera by camera"]()
        torch.testing.assert_close(together, torch.cat(apart, dim=1), atol=1e-5, rtol=1e-5)
