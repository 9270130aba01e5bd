"""Sums, products and pools that depend on the input on every side, against the explicit form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.oracle.dense import densify
from tests.support.compare import assert_close, assert_digits
from tests.support.networks import Of

D = torch.float64


def split(function: Callable[..., Tensor], args: tuple[Tensor, ...], r: Tensor, rule: object) -> tuple[Tensor, ...]:
    found = rp.LRP(Of(function), rule).explain(*args, target=r).relevance
    return found if isinstance(found, tuple) else (found,)


# -- sums --

SUMS: dict[str, tuple[rp.Rule, Callable[[list[Tensor]], list[Tensor]]]] = {
    "signed": (rp.Zero(), lambda t: [a / sum(t) for a in t]),
    "absolute": (rp.Absolute(), lambda t: [a.abs() / sum(b.abs() for b in t) for a in t]),
    "equal": (rp.Equal(), lambda t: [torch.full_like(a, 1 / len(t)) for a in t]),
    "residual": (rp.ResidualGamma(1.0), lambda t: _grown(t, 1.0)),
    "residual-2": (rp.ResidualGamma(2.0), lambda t: _grown(t, 2.0)),
}


def _grown(terms: list[Tensor], gamma: float) -> list[Tensor]:
    y = sum(terms)
    grown = [(1 + gamma * (t * y > 0)) * t for t in terms]
    return [t / sum(grown) for t in grown]


@pytest.mark.parametrize("rule", SUMS)
def test_sum(rule: str) -> None:
    a, b, r = (torch.randn(3, 4, dtype=D) for _ in range(3))
    value, shares = SUMS[rule]
    spellings = {
        "operator": (lambda a, b: a + b, [a, b]),
        "function": (lambda a, b: torch.add(a, b), [a, b]),
        "in place": (lambda a, b: (a * 1.0).add_(b), [a, b]),
        "scaled": (lambda a, b: torch.add(a, b, alpha=0.5), [a, 0.5 * b]),
        "difference": (lambda a, b: a - b, [a, -b]),
        "reflected": (lambda a, b: torch.rsub(b, a), [a, -b]),
        "stacked": (lambda a, b: torch.stack([a, b]).sum(0), [a, b]),
    }
    for name, (function, terms) in spellings.items():
        if name == "stacked" and rule != "signed":
            continue  # a reduction over a dimension is no sum of branches: it stays signed
        found = split(function, (a, b), r, value)
        for mine, share in zip(found, shares(terms)):
            assert_close(mine, share * r, 1e-10, name)


@pytest.mark.parametrize("rule", SUMS)
def test_broadcast_sum(rule: str) -> None:
    """The smaller addend gets the relevance of every place it was added to."""
    a, b, r = torch.randn(3, 4, 2, dtype=D), torch.randn(3, 1, 2, dtype=D), torch.randn(3, 4, 2, dtype=D)
    value, shares = SUMS[rule]
    first, second = split(lambda a, b: a + b, (a, b), r, value)
    one, two = shares([a, b.expand_as(a)])
    assert_close(first, one * r, 1e-10)
    assert_close(second, (two * r).sum(1, keepdim=True), 1e-10)


@pytest.mark.parametrize(
    ("rule", "first", "second"),
    [
        (rp.Zero(), (0.25, 2), (0.75, -1)),
        (rp.Absolute(), (0.25, 0.6667), (0.75, 0.3333)),
        (rp.Equal(), (0.5, 0.5), (0.5, 0.5)),
        (rp.ResidualGamma(1.0), (0.25, 1.3333), (0.75, -0.3333)),
    ],
    ids=str,
)
def test_residual_digits(rule: rp.Rule, first: tuple, second: tuple) -> None:
    """a = (1, -2), f = (3, 1), y = (4, -1), R = (1, 1)."""
    a, f, r = (torch.tensor([t], dtype=D) for t in ([1, -2], [3, 1], [1, 1]))
    one, two = split(lambda a, f: a + f, (a, f), r, rule)
    assert_digits(one[0], first)
    assert_digits(two[0], second)


@pytest.mark.parametrize("rule", ["signed", "absolute", "equal", "residual"])
def test_sum_with_a_constant(rule: str) -> None:
    """What a constant addend takes is not handed to anybody else: it stands in the audit."""
    a, r, c = torch.randn(3, 4, dtype=D), torch.randn(3, 4, dtype=D), torch.randn(4, dtype=D)
    value, shares = SUMS[rule]
    model = Of(lambda a: a + c)
    found = rp.LRP(model, value).explain(a, target=r)
    if rule == "signed":
        assert_close(found.relevance, shares([a, c.expand_as(a)])[0] * r, 1e-10)
    assert abs(float(found.audit.unexplained)) < 1e-9


# -- products --


def test_product_gives_half_to_each() -> None:
    a, b, r = (torch.randn(3, 4, dtype=D) for _ in range(3))
    for function in (lambda a, b: a * b, torch.mul, lambda a, b: (1.0 * a).mul_(b)):
        for mine in split(function, (a, b), r, rp.Zero()):
            assert_close(mine, r / 2, 1e-10)


def test_broadcast_product() -> None:
    """A squeeze-and-excite gate: one number a channel."""
    a, b, r = (
        torch.randn(2, 3, 4, 4, dtype=D),
        torch.randn(2, 3, 1, 1, dtype=D),
        torch.randn(2, 3, 4, 4, dtype=D),
    )
    first, second = split(lambda a, b: a * b, (a, b), r, rp.Half())
    assert_close(first, r / 2, 1e-10)
    assert_close(second, r.sum((2, 3), keepdim=True) / 2, 1e-9)


def test_signal_takes_all() -> None:
    """The gate is what came from a sigmoid."""
    a, b, r = (torch.randn(3, 4, dtype=D) for _ in range(3))
    for function, gate in (
        (lambda a, b: a * torch.sigmoid(b), 1),
        (lambda a, b: torch.sigmoid(a) * b, 0),
    ):
        found = split(function, (a, b), r, rp.SignalTakesAll())
        assert_close(found[1 - gate], r, 1e-10)
        assert_close(found[gate], torch.zeros_like(r), 1e-10)


def test_proportional() -> None:
    a, b, r = (torch.randn(3, 4, dtype=D) for _ in range(3))
    first, second = split(lambda a, b: a * b, (a, b), r, rp.Proportional())
    assert_close(first, a.abs() / (a.abs() + b.abs()) * r, 1e-10)
    assert_close(second, b.abs() / (a.abs() + b.abs()) * r, 1e-10)


def test_quotient() -> None:
    """A denominator is a constant: the numerator takes all."""
    a, b, r = torch.randn(3, 4, dtype=D), torch.rand(3, 4, dtype=D) + 0.5, torch.randn(3, 4, dtype=D)
    first, second = split(lambda a, b: a / b, (a, b), r, rp.Zero())
    assert_close(first, r, 1e-10)
    assert_close(second, torch.zeros_like(r), 1e-10)


def test_matmul_of_two() -> None:
    """R_a[i, j] = sum_p a[i, j] b[j, p] R[i, p] / (2 z[i, p]), and the same for b."""
    a, b, r = torch.randn(2, 3, 4, dtype=D), torch.randn(2, 4, 5, dtype=D), torch.randn(2, 3, 5, dtype=D)
    p = a[:, :, :, None] * b[:, None]  # [N, i, j, p]
    shares = p * (r / p.sum(2) / 2)[:, :, None]
    for function in (
        torch.matmul,
        torch.bmm,
        lambda a, b: a @ b,
        lambda a, b: torch.einsum("nij,njp->nip", a, b),
    ):
        first, second = split(function, (a, b), r, rp.Zero())
        assert_close(first, shares.sum(3), 1e-10)
        assert_close(second, shares.sum(1), 1e-10)


def test_bilinear_layer_of_two() -> None:
    """z_k = sum_ij w_kij a_i b_j + c_k: half of each contribution to either side, a share to the bias."""
    layer = nn.Bilinear(3, 4, 2).double()
    a, b, r = torch.randn(2, 3, dtype=D), torch.randn(2, 4, dtype=D), torch.randn(2, 2, dtype=D)
    p = layer.weight[None] * a[:, None, :, None] * b[:, None, None, :]  # [N, k, i, j]
    shares = (p * (r / layer(a, b))[:, :, None, None] / 2).detach()
    first, second = (t for t in rp.LRP(layer, rp.Zero()).explain(a, b, target=r).relevance)
    assert_close(first, shares.sum((1, 3)), 1e-10)
    assert_close(second, shares.sum((1, 2)), 1e-10)


# -- pools --

AVERAGES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "avg_pool1d": (nn.AvgPool1d(2), (2, 6)),
    "avg_pool2d": (nn.AvgPool2d(3, stride=2, padding=1), (2, 5, 6)),
    "avg_pool2d without padding in the count": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 5, 6)),
    "avg_pool2d ceil mode": (nn.AvgPool2d(2, ceil_mode=True), (2, 5, 5)),
    "avg_pool3d": (nn.AvgPool3d(2), (1, 4, 2, 2)),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 4)),
    "adaptive, up": (nn.AdaptiveAvgPool2d(4), (2, 3, 3)),
    "mean": (Of(lambda x: x.mean((2, 3))), (2, 3, 4)),
    "sum": (Of(lambda x: x.sum(-1)), (2, 3)),
    "interpolate": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 3)),
    "nearest": (nn.Upsample(scale_factor=2), (2, 3, 3)),
    "cumsum": (Of(lambda x: x.cumsum(1)), (4,)),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_average(name: str) -> None:
    """R_j = sum_k w_kj a_j / z_k R_k: averages and sums are linear maps and run natively."""
    module, in_shape = AVERAGES[name]
    dense, x = densify(module, in_shape), torch.randn(2, *in_shape, dtype=D)
    r = torch.randn(2, *dense.out_shape, dtype=D)
    rows = [((dense.w * a) * (q / (dense.w @ a))[:, None]).sum(0) for a, q in zip(x.flatten(1), r.flatten(1))]
    found = rp.LRP(module, rp.Zero()).explain(x, target=r).relevance
    assert_close(found, torch.stack(rows).reshape(x.shape), 1e-9)


MAXIMA: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "max_pool1d": (nn.MaxPool1d(2), (2, 6)),
    "max_pool2d": (nn.MaxPool2d(3, stride=2, padding=1), (2, 6, 5)),
    "max_pool2d dilated": (nn.MaxPool2d(2, stride=1, dilation=2), (2, 5, 5)),
    "max_pool2d ceil mode": (nn.MaxPool2d(2, ceil_mode=True), (2, 5, 5)),
    "max_pool3d": (nn.MaxPool3d(2), (1, 4, 2, 2)),
    "adaptive": (nn.AdaptiveMaxPool2d(2), (2, 5, 4)),
    "amax": (Of(lambda x: x.amax((2, 3))), (2, 3, 4)),
    "max": (Of(lambda x: x.max(2).values), (2, 3, 4)),
    "with indices": (Of(lambda x: functional.max_pool2d(x, 2, return_indices=True)[0]), (2, 4, 4)),
    "unpooled": (
        Of(lambda x: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2)),
        (2, 4, 4),
    ),
    "topk": (Of(lambda x: x.topk(2, dim=1).values), (5,)),
    "sort": (Of(lambda x: x.sort(dim=1).values), (5,)),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maximum(name: str) -> None:
    """Whatever wins gets everything: each output is one of the inputs, found by its value."""
    module, in_shape = MAXIMA[name]
    x = torch.randn(2, *in_shape, dtype=D)
    y = module(x)
    r = torch.where(y == 0, 0.0, torch.randn(y.shape, dtype=D))
    expected = torch.zeros_like(x)
    for i in range(2):
        for value, relevance in zip(y[i].flatten(), r[i].flatten()):
            expected[i][x[i] == value] += relevance
    assert_close(rp.LRP(module, rp.Zero()).explain(x, target=r).relevance, expected, 1e-10)


def test_equal_ties() -> None:
    """Two winners in a window share; one winner has it all."""
    x = torch.tensor([[[[1.0, 1.0, 3.0, 0.0], [0.0, 1.0, 2.0, 2.0]]]], dtype=D)
    r = torch.tensor([[[[3.0, 5.0]]]], dtype=D)
    rule = rp.Composite([(rp.Kind("pool"), rp.EqualTies())])
    found = rp.LRP(nn.MaxPool2d(2), rule).explain(x, target=r).relevance
    assert_digits(found[0, 0], [[1, 1, 5, 0], [0, 1, 0, 0]], 10)
    first = rp.LRP(nn.MaxPool2d(2), rp.Zero()).explain(x, target=r).relevance
    assert_digits(first[0, 0], [[3, 0, 5, 0], [0, 0, 0, 0]], 10)


def test_epsilon_pool() -> None:
    """A pool as a linear map with a stabiliser that can be seen."""
    x, r = torch.randn(1, 1, 4, 4, dtype=D), torch.randn(1, 1, 2, 2, dtype=D)
    rule = rp.Composite([(rp.Kind("pool"), rp.EpsilonPool(0.5))])
    for pool in (nn.AvgPool2d(2), nn.MaxPool2d(2)):
        y = pool(x)
        winners = (functional.interpolate(y, scale_factor=2) == x).double()
        share = x / 4 if isinstance(pool, nn.AvgPool2d) else x * winners
        s = functional.interpolate(r / (y + 0.5 * y.sign()), scale_factor=2)
        assert_close(rp.LRP(pool, rule).explain(x, target=r).relevance, share * s, 1e-10)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_lp_pool(p: float) -> None:
    """y = (sum x^p)^(1/p) has degree one: R_j = x_j^p / sum x^p R."""
    x, r = torch.rand(2, 2, 4, 4, dtype=D) + 0.1, torch.randn(2, 2, 2, 2, dtype=D)
    power = x**p
    total = functional.avg_pool2d(power, 2) * 4
    expected = power * functional.interpolate(r / total, scale_factor=2)
    assert_close(rp.LRP(nn.LPPool2d(p, 2), rp.Zero()).explain(x, target=r).relevance, expected, 1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3), "stride": (1, 2), "dilation": (2, 1)},
        {"kernel_size": 2, "ceil_mode": True},
    ],
    ids=str,
)
def test_equal_ties_in_any_window(settings: dict) -> None:
    """R_j = sum over windows of R_k / (number of maxima), for each j that is one of them."""
    pool = nn.MaxPool2d(**settings)
    x = torch.randint(1, 4, (2, 2, 5, 7)).double()  # few values, many ties
    y = pool(x)
    r = torch.randn_like(y)
    expected = torch.zeros_like(x)
    single = torch.zeros_like(x)
    for k in range(y[0, 0].numel()):
        # which entries window k reaches: those whose rise alone raises its output
        reached = []
        for j in range(x[0, 0].numel()):
            single.zero_().view(2, 2, -1)[:, :, j] = 1
            reached.append(pool(single).view(2, 2, -1)[0, 0, k] == 1)
        best = torch.tensor(reached).view(1, 1, 5, 7) & (x == y.view(2, 2, -1)[:, :, k, None, None])
        expected += best.double() / best.sum((2, 3), keepdim=True) * r.view(2, 2, -1)[:, :, k, None, None]
    rule = rp.Composite([(rp.Kind("pool"), rp.EqualTies())])
    assert_close(rp.LRP(pool, rule).explain(x, target=r).relevance, expected, 1e-12)


def test_equal_ties_needs_windows() -> None:
    rule = rp.Composite([(rp.Kind("pool"), rp.EqualTies())])
    with pytest.raises(rp.RuleError, match="EqualTies.*adaptive_max_pool2d"):
        rp.LRP(nn.AdaptiveMaxPool2d(2), rule).explain(torch.randn(1, 1, 5, 5), target=(0, 0, 0))
