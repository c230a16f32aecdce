"""Low-rank adaptation, against the formula of its paper."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from rdvla.backbone import LoraSettings
from rdvla.backbone.lora import add_lora, is_lora
from rdvla.errors import ConfigError, MissingExtraError

pytest.importorskip("peft")


class Model(nn.Module):
    """Two modules with layers of the same names, and a layer that must not be adapted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision = nn.ModuleDict({"up": nn.Linear(3, 4), "pool": nn.MultiheadAttention(4, 1)})
        self.language = nn.ModuleDict(
            {"up": nn.Linear(4, 6), "norm": nn.LayerNorm(6), "down": nn.Linear(6, 2)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.language["up"](self.vision["up"](x))
        return self.language["down"](self.language["norm"](x))


def adapted(where: str = "language", **settings: int) -> Model:
    model = Model()
    add_lora(model, LoraSettings(where=where, **settings), language=model.language)  # type: ignore[arg-type]
    return model


def trained(model: nn.Module) -> set[str]:
    return {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}


def test_it_starts_as_the_model_was() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(adapted("all")(x), Model()(x))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("none", set()),
        ("language", {"language.up", "language.down"}),
        ("all", {"vision.up", "language.up", "language.down"}),
    ],
)
def test_only_pairs_are_trained(where: str, expected: set[str]) -> None:
    model = adapted(where)
    assert trained(model) == expected
    assert all(p.requires_grad == is_lora(name) for name, p in model.named_parameters())


def test_it_adds_alpha_over_r_times_the_product() -> None:
    model, plain, x = adapted(rank=2, alpha=6), Model(), torch.randn(5, 4)
    parameters = dict(model.named_parameters())
    a, b = (parameters[f"language.up.lora_{part}.default.weight"] for part in "AB")
    assert (tuple(a.shape), tuple(b.shape)) == ((2, 4), (6, 2))
    nn.init.normal_(b)
    expected = plain.language["up"](x) + 6 / 2 * x @ a.T @ b.T
    torch.testing.assert_close(model.language["up"](x), expected)


def test_pairs_stay_in_float32() -> None:
    model = Model().bfloat16()
    add_lora(model, LoraSettings(), language=model.language)
    assert {p.dtype for name, p in model.named_parameters() if is_lora(name)} == {torch.float32}
    out = model(torch.randn(2, 3, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    out.sum().backward()


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no linear layer"):
        add_lora(nn.Sequential(nn.ReLU()), LoraSettings(where="all"), language=nn.Identity())


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[lora\]'"):
        adapted()
    adapted("none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "vision"}, "lora.where"),
        ({"rank": 0}, "lora.rank"),
        ({"alpha": 0}, "lora.alpha"),
        ({"dropout": 1.0}, "lora.dropout"),
    ],
)
def test_values_out_of_range_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraSettings(**settings)  # type: ignore[arg-type]
