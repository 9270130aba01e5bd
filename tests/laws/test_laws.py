"""What holds for every rule and every preset, whatever its formula: linearity, batches, sums, aliases."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close
from tests.support.networks import gated_net, residual_net, two_towers, unet
from tests.support.presets import vision_presets

PRESETS = vision_presets(4.0)
NETWORKS = {"residual": residual_net, "gated": gated_net}
LINEAR = [name for name in PRESETS if name not in ("GuidedBackprop", "Deconvnet")]  # those two clip by sign


def pictures(count: int = 3, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, 8, 8, dtype=torch.float64).clamp(-3.9, 3.9)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("preset", LINEAR)
def test_linear_in_relevance(preset: str, network: str) -> None:
    """f(2 r - q) = 2 f(r) - f(q)"""
    lrp, x = rp.LRP(NETWORKS[network](), PRESETS[preset]), pictures()
    r, q = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    whole, first, second = (lrp.explain(x, target=t).relevance for t in (2 * r - q, r, q))
    assert_close(whole, 2 * first - second, 1e-9)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_batch_equals_singles(preset: str, network: str) -> None:
    lrp, x = rp.LRP(NETWORKS[network](), PRESETS[preset]), pictures()
    targets = torch.tensor([4, 0, 2])
    whole = lrp.explain(x, target=targets).relevance
    singles = [lrp.explain(x[i : i + 1], target=int(targets[i])).relevance for i in range(3)]
    assert_close(whole, torch.cat(singles), 1e-9)


@pytest.mark.parametrize("preset", PRESETS)
def test_chunked_equals_whole(preset: str) -> None:
    lrp, x, r = rp.LRP(residual_net(), PRESETS[preset]), pictures(5), torch.randn(5, 5, dtype=torch.float64)
    whole = lrp.explain(x, target=r).relevance
    chunks = [lrp.explain(part, target=rel).relevance for part, rel in zip(x.split(2), r.split(2))]
    assert_close(whole, torch.cat(chunks), 1e-9)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_memory_layout_changes_nothing(preset: str, network: str) -> None:
    lrp, x = rp.LRP(NETWORKS[network](), PRESETS[preset]), pictures()
    r = torch.randn(3, 5, dtype=torch.float64)
    plain = lrp.explain(x, target=r).relevance
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert_close(lrp.explain(other, target=r).relevance, plain, 1e-9)


# -- conservation --


class Stack(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.head = nn.Linear(4 * 64, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


CONSERVING = {
    "epsilon": rp.Epsilon,
    "gamma": lambda **k: rp.Gamma(0.25, **k),
    "gamma-standard": lambda **k: rp.Gamma(0.25, variant="standard", **k),
    "z-plus": rp.ZPlus,
    "z-box": lambda **k: rp.ZBox(-4.0, 4.0, **k),
    "w-square": rp.WSquare,
    "flat": rp.Flat,
}


@pytest.mark.parametrize("option", ["absorb", "zero", "distribute"])
@pytest.mark.parametrize("rule", CONSERVING)
def test_conservation_with_bias_options(rule: str, option: str) -> None:
    """Without a bias, and with it shared out, nothing is lost; what `absorb` loses stands in the audit."""
    value = CONSERVING[rule](epsilon=1e-30, bias=option)
    x, r = pictures(2), torch.randn(2, 5, dtype=torch.float64)
    torch.manual_seed(2)
    plain = rp.LRP(Stack(bias=False).double(), value).explain(x, target=r)
    assert_close(plain.relevance.sum(), r.sum(), 1e-7, "without a bias")
    assert abs(plain.audit.unexplained) < 1e-9 * float(r.abs().sum())
    biased = rp.LRP(Stack(bias=True).double(), value).explain(x, target=r)
    if option == "distribute" or rule in ("z-box", "w-square", "flat"):
        assert_close(biased.relevance.sum(), r.sum(), 1e-7, "shared out")
    elif option == "absorb":
        assert abs(biased.relevance.sum() - r.sum()) > 1e-3, "the bias should have taken something"
        assert abs(biased.audit.bias) > 1e-3
    assert abs(biased.audit.unexplained) < 1e-9 * float(r.abs().sum())


# -- aliases --

ALIASES = {
    "AlphaBeta(1, 0) = ZPlus": (rp.AlphaBeta(1, 0), rp.ZPlus()),
    "Gamma(0) = Zero": (rp.Gamma(0.0, epsilon=0.0), rp.Zero()),
    "Epsilon(0) = Zero": (rp.Epsilon(0.0), rp.Zero()),
    "standard Gamma(0) = Epsilon": (rp.Gamma(0.0, variant="standard", epsilon=0.1), rp.Epsilon(0.1)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ALIASES)
def test_aliases(name: str, network: str) -> None:
    first, second = ALIASES[name]
    model, x, r = NETWORKS[network](), pictures(), torch.randn(3, 5, dtype=torch.float64)
    assert_close(
        rp.LRP(model, first).explain(x, target=r).relevance,
        rp.LRP(model, second).explain(x, target=r).relevance,
        1e-9,
    )


def test_gamma_grows_into_z_plus() -> None:
    """On inputs >= 0 and outputs > 0, gamma goes to z+ as it grows."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4).double(), torch.rand(3, 6, dtype=torch.float64)
    r = torch.where(model(x) > 0, torch.randn(3, 4, dtype=torch.float64), 0.0)
    gamma = rp.LRP(model, rp.Gamma(1e9)).explain(x, target=r).relevance
    assert_close(gamma, rp.LRP(model, rp.ZPlus()).explain(x, target=r).relevance, 1e-5)


# -- the two networks that a segmentation and a regression stand for --


@pytest.mark.parametrize("preset", PRESETS)
def test_unet_with_a_mask(preset: str) -> None:
    """A mask's relevance is the sum of its pixels' relevances: of single targets, and of an explicit seed."""
    model, x = unet(), pictures(2, 2)
    lrp, output = rp.LRP(model, PRESETS[preset]), model(x).detach()
    mask = torch.zeros(output.shape, dtype=torch.bool)
    mask[:, 1, 2:5, 3:7] = True
    found = lrp.explain(x, target=mask)
    assert torch.equal(found.output, output)
    explicit = lrp.explain(x, target=torch.where(mask, output, 0.0))
    assert_close(found.relevance, explicit.relevance, 1e-9)
    assert torch.isfinite(found.relevance).all() and found.relevance.abs().sum() > 0
    if preset in LINEAR:
        pixels = [
            lrp.explain(x, target=lambda o, i=i, j=j: o[:, 1, i, j]).relevance for i in range(2, 5) for j in range(3, 7)
        ]
        assert_close(found.relevance, torch.stack(pixels).sum(0), 1e-8)


def test_unet_without_biases_conserves() -> None:
    model = unet()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                tensor.zero_()
    x = pictures(2, 2)
    for rule in (rp.Epsilon(1e-12), rp.ZPlus(epsilon=1e-12)):
        relevance = torch.rand(2, 2, 8, 8, dtype=torch.float64)
        found = rp.LRP(model, rule).explain(x, target=relevance).relevance
        assert_close(found.sum((1, 2, 3)), relevance.sum((1, 2, 3)), 1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_two_inputs_with_a_regression_output(preset: str) -> None:
    """Each input gets its own relevance, whether it came by position or by name; `wrt` only selects."""
    model, x, row = two_towers(), pictures(3), torch.randn(3, 4, dtype=torch.float64)
    lrp = rp.LRP(model, PRESETS[preset])
    both = lrp.explain(x, row, target=0)
    assert isinstance(both.relevance, tuple)
    assert [t.shape for t in both.relevance] == [x.shape, row.shape]
    assert torch.equal(both.output, model(x, row))
    for single in (rp.LRP(model, PRESETS[preset]).explain(x, row), lrp.explain(x, row, target=both.output)):
        for first, second in zip(both.relevance, single.relevance):
            assert_close(first, second, 1e-10)
    if preset == "Zero":
        leaves = x.clone().requires_grad_(), row.clone().requires_grad_()
        # ReLU and max are native; with the GELU the gradient differs, so the picture's side is compared
        (gradient,) = torch.autograd.grad(model(*leaves).sum(), leaves[:1])
        assert_close(both.relevance[0], x * gradient, 1e-10)


def test_deep_copy_explains_alike() -> None:
    model, x, r = residual_net(), pictures(), torch.randn(3, 5, dtype=torch.float64)
    first = rp.LRP(model, rp.EpsilonPlus()).explain(x, target=r).relevance
    assert torch.equal(first, rp.LRP(copy.deepcopy(model), rp.EpsilonPlus()).explain(x, target=r).relevance)
