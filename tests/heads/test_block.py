"""The block against a slow computation written from the paper's equations, token by token, in float64."""

import math

import pytest
import torch
from torch import Tensor

from rdvla.engine.context import Unprojected, bind, form_for
from rdvla.heads import Context, RecurrentConfig, RecurrentDepthHead
from rdvla.heads.recurrent.model import Block, CrossAttention, KeysValues, Rotary

CONFIG = RecurrentConfig(
    hidden_dim=12, num_heads=3, chunk_size=4, action_dim=2, core=("late",), context_dim=10
)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean() + CONFIG.norm_eps) * weight


def rotate_standard(x: Tensor, position: int) -> Tensor:
    half = len(x) // 2
    out = x.clone()
    for i in range(half):
        angle = position / CONFIG.rotary_base ** (2 * i / len(x))
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor], scales: list[float]) -> Tensor:
    logits = [
        float(query @ key) * scale / math.sqrt(len(query)) for key, scale in zip(keys, scales, strict=True)
    ]
    weights = [math.exp(logit - max(logits)) for logit in logits]
    mixed = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        mixed += weight / sum(weights) * value
    return mixed


def naive_block(block: Block, x: Tensor, vision: Tensor, latents: Tensor, proprio: Tensor) -> Tensor:
    """x (K, D), vision (M, C), latents (L, C), proprio (1, C), all float64."""
    w = {name: value.double() for name, value in block.state_dict().items()}
    heads, head_dim = CONFIG.num_heads, CONFIG.hidden_dim // CONFIG.num_heads

    def per_head(vector: Tensor, head: int) -> Tensor:
        return vector[head * head_dim : (head + 1) * head_dim]

    wq, wk, wv = w["self_attention.qkv.weight"].chunk(3)
    normed = [rms_norm(token, w["self_norm.weight"]) for token in x]
    after_self = []
    for i, token in enumerate(x):
        mixed = [
            attend(
                rotate_standard(per_head(wq @ normed[i], h), i),
                [rotate_standard(per_head(wk @ other, h), j) for j, other in enumerate(normed)],
                [per_head(wv @ other, h) for other in normed],
                [1.0] * len(normed),
            )
            for h in range(heads)
        ]
        after_self.append(token + w["self_attention.output.weight"] @ torch.cat(mixed))

    near_k, near_v = w["cross_attention.latents_kv.weight"].chunk(2)
    far_k, far_v = w["cross_attention.vision_kv.weight"].chunk(2)
    gate = math.tanh(float(w["cross_attention.vision_gate"]))
    near, far = [*latents, proprio[0]], list(vision)
    out = []
    for token in after_self:
        query = w["cross_attention.query.weight"] @ rms_norm(token, w["cross_norm.weight"])
        mixed = [
            attend(
                per_head(query, h),
                [per_head(near_k @ c, h) for c in near] + [per_head(far_k @ c, h) for c in far],
                [per_head(near_v @ c, h) for c in near] + [per_head(far_v @ c, h) for c in far],
                [1.0] * len(near) + [gate] * len(far),
            )
            for h in range(heads)
        ]
        token = token + w["cross_attention.output.weight"] @ torch.cat(mixed)
        gate_up = w["feedforward.gate_up.weight"] @ rms_norm(token, w["feedforward_norm.weight"])
        opened, up = gate_up.chunk(2)
        out.append(token + w["feedforward.down.weight"] @ (opened / (1 + torch.exp(-opened)) * up))
    return torch.stack(out)


@pytest.mark.parametrize("form", ["keys and values", "as it came"])
def test_block_equals_the_equations(form: str) -> None:
    torch.manual_seed(0)
    block = Block(CONFIG)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if "norm" in name or "gate" in name:
                parameter.uniform_(0.5, 1.5)
    x, vision, latents, proprio = (torch.randn(t, w) for t, w in ((4, 12), (5, 10), (3, 10), (1, 10)))
    with torch.no_grad():
        context = (
            bind(block.cross_attention, Unprojected(torch.cat([latents, proprio])[None], vision[None]))
            if form == "as it came"
            else block.cross_attention.project(
                Context({0: vision[None]}, {0: latents[None]}, proprio[None]), 0
            )
        )
        ours = block(x[None], context)[0]
        naive = naive_block(block, x.double(), vision.double(), latents.double(), proprio.double())
    torch.testing.assert_close(ours.double(), naive, atol=2e-6, rtol=1e-5)


def test_a_closed_gate_spreads_attention_evenly_over_vision() -> None:
    """With g = 0 vision logits are 0: what the vision tokens' keys say changes nothing, only values count."""
    torch.manual_seed(0)
    block = Block(CONFIG)
    vision, latents, proprio = torch.randn(1, 5, 10), torch.randn(1, 3, 10), torch.randn(1, 1, 10)
    keys_values = block.cross_attention.project(Context({0: vision}, {0: latents}, proprio), 0)
    assert keys_values.keys[:, :, 4:].abs().max() == 0
    assert keys_values.values[:, :, 4:].abs().min() > 0


def make_rotary(*, positions: int, form: str) -> Rotary:
    return Rotary(
        RecurrentConfig(hidden_dim=8, num_heads=1, chunk_size=positions, rotary_base=100.0, rotary=form)
    )


@pytest.mark.parametrize("form", ["standard", "neighbour_pairs"])
def test_position_zero_is_not_rotated(form: str) -> None:
    rotary = make_rotary(positions=3, form=form)
    x = torch.randn(1, 1, 3, 8)
    torch.testing.assert_close(rotary(x)[..., 0, :], x[..., 0, :])
    assert not torch.allclose(rotary(x)[..., 1, :], x[..., 1, :])


def test_standard_rotary_depends_on_distance_only() -> None:
    rotary = make_rotary(positions=6, form="standard")
    q, k = torch.randn(8), torch.randn(8)
    scores = rotary(q.expand(1, 1, 6, 8))[0, 0] @ rotary(k.expand(1, 1, 6, 8))[0, 0].T
    for distance in range(-5, 6):
        along = torch.diagonal(scores, distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-5, rtol=1e-5)


def test_paper_size() -> None:
    with torch.device("meta"):
        head = RecurrentDepthHead(RecurrentConfig())
    total = sum(parameter.numel() for parameter in head.parameters())
    assert round(total / 1e6, 1) == 72.3


def test_fresh_weights_have_the_papers_spread() -> None:
    torch.manual_seed(0)
    config = RecurrentConfig(hidden_dim=128, num_heads=4, core=("late", "late"), mean_depth=8)
    block = RecurrentDepthHead(config).core[0]
    assert isinstance(block, Block)
    std = math.sqrt(2 / (5 * 128)) * 0.9866  # a normal distribution cut at 3 sigma is that much narrower
    torch.testing.assert_close(block.self_attention.qkv.weight.std().item(), std, rtol=0.02, atol=0)
    scale = 4  # sqrt(8 * 2)
    torch.testing.assert_close(block.feedforward.down.weight.std().item(), std / scale, rtol=0.02, atol=0)
    assert block.cross_attention.vision_gate.item() == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_both_forms_of_the_context_read_the_same(batch: int) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(CONFIG)
    torch.nn.init.constant_(attention.vision_gate, 0.7)
    vision, latents, proprio = torch.randn(batch, 9, 10), torch.randn(batch, 4, 10), torch.randn(batch, 1, 10)
    x = torch.randn(batch, 4, 12)
    projected = attention.project(Context({0: vision}, {0: latents}, proprio), 0)
    unprojected = Unprojected(torch.cat([latents, proprio], dim=1), vision)
    torch.testing.assert_close(
        attention(x, bind(attention, unprojected)), attention(x, projected), atol=1e-5, rtol=1e-5
    )


def test_at_the_papers_size_queries_are_projected_for_few_readings_only() -> None:
    with torch.device("meta"):
        attention = CrossAttention(RecurrentConfig(hidden_dim=896, num_heads=8, context_dim=896))
    forms = [form_for(attention, chunk_size=8, tokens=512 + 64 + 1, reads=reads) for reads in (1, 32, None)]
    assert forms == [Unprojected, KeysValues, KeysValues]
