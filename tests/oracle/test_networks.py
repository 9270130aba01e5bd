"""Rules that give relevance to zeros on a layer in the middle of a network, against the explicit form.

Flat, w² and z-box hand relevance to inputs that are zero. What lies below such a layer has to carry it on:
through activations, pools, sums, scalings, and through linear maps with a negative output before a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.oracle import formulas as f
from tests.oracle.formulas import Formula
from tests.oracle.tape import Tape, Value
from tests.support.compare import assert_close

TINY = 1e-30
MIDDLE = {
    "flat": (rp.Flat(), Formula(f.flat)),
    "w-square": (rp.WSquare(epsilon=TINY), Formula(f.w_square, TINY)),
    "z-box": (rp.ZBox(-1.0, 3.0, epsilon=TINY), Formula(f.z_box(-1.0, 3.0), TINY)),
}
LOWER = {
    "zero": (rp.Zero(), Formula(f.plain)),
    "epsilon": (rp.Epsilon(1e-3), Formula(f.plain, 1e-3)),
    "gamma": (rp.Gamma(0.5, epsilon=TINY), Formula(f.gamma_generalised(0.5), TINY)),
    "z-plus": (rp.ZPlus(epsilon=TINY), Formula(f.alpha_beta(1, 0), TINY)),
    "alpha2-beta1": (rp.AlphaBeta(2, 1, epsilon=TINY), Formula(f.alpha_beta(2, 1), TINY)),
    "flat": (rp.Flat(), Formula(f.flat)),
}


class Between(nn.Module):
    """`second(between(first(x), other(x), x))`, once with torch and once on a tape."""

    def __init__(self, between: Callable[..., Tensor], channels: int = 3, padding: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.other = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(channels, 2, 3, padding=padding)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x), self.other(x), x))


def _relu(t: Tape, u: Value) -> Value:
    return t.elementwise(u, torch.relu)


# name: (with torch, on the tape, channels of the result)
BETWEEN: dict[str, tuple[Callable[..., Tensor], Callable[..., Value], int]] = {
    "relu": (lambda u, v, x: u.relu(), lambda t, u, v, x: _relu(t, u), 3),
    "relu-in-place": (lambda u, v, x: functional.relu_(u), lambda t, u, v, x: _relu(t, u), 3),
    "leaky-relu": (
        lambda u, v, x: functional.leaky_relu(u, 0.1),
        lambda t, u, v, x: t.elementwise(u, lambda a: functional.leaky_relu(a, 0.1)),
        3,
    ),
    "relu6": (lambda u, v, x: functional.relu6(u), lambda t, u, v, x: t.elementwise(u, functional.relu6), 3),
    "clamp": (lambda u, v, x: u.clamp(0, 1), lambda t, u, v, x: t.elementwise(u, lambda a: a.clamp(0, 1)), 3),
    "gelu": (lambda u, v, x: functional.gelu(u), lambda t, u, v, x: t.elementwise(u, functional.gelu), 3),
    "relu-input": (lambda u, v, x: x.relu(), lambda t, u, v, x: _relu(t, x), 2),
    "max-pool-relu": (
        lambda u, v, x: functional.max_pool2d(u.relu(), 2),
        lambda t, u, v, x: t.max_pool(_relu(t, u), 2),
        3,
    ),
    "relu-max-pool": (
        lambda u, v, x: functional.max_pool2d(u, 3, stride=2, padding=1).relu(),
        lambda t, u, v, x: _relu(t, t.max_pool(u, 3, stride=2, padding=1)),
        3,
    ),
    "relu-plus-relu": (
        lambda u, v, x: u.relu() + v.relu(),
        lambda t, u, v, x: t.add(_relu(t, u), _relu(t, v)),
        3,
    ),
    "relu-plus-relu-in-place": (
        lambda u, v, x: u.relu_().add_(v.relu_()),
        lambda t, u, v, x: t.add(_relu(t, u), _relu(t, v)),
        3,
    ),
    "relu-of-sum": (lambda u, v, x: (u + v).relu(), lambda t, u, v, x: _relu(t, t.add(u, v)), 3),
    "relu-plus-itself": (lambda u, v, x: u.relu() + u, lambda t, u, v, x: t.add(_relu(t, u), u), 3),
    "eighth-of-relu": (
        lambda u, v, x: 0.125 * u.relu(),
        lambda t, u, v, x: t.elementwise(u, lambda a: 0.125 * a.relu()),
        3,
    ),
    "three-times-relu": (
        lambda u, v, x: u.relu() * 3,
        lambda t, u, v, x: t.elementwise(u, lambda a: 3 * a.relu()),
        3,
    ),
    "relu-over-four": (
        lambda u, v, x: u.relu() / 4,
        lambda t, u, v, x: t.elementwise(u, lambda a: a.relu() / 4),
        3,
    ),
    "minus-relu": (lambda u, v, x: -u.relu(), lambda t, u, v, x: t.elementwise(u, lambda a: -a.relu()), 3),
    "relu-times-channel": (
        lambda u, v, x: u.relu() * torch.tensor([0.5, 2.0, -1.0], dtype=u.dtype).view(3, 1, 1),
        lambda t, u, v, x: t.elementwise(u, lambda a: a.relu() * torch.tensor([0.5, 2.0, -1.0]).double().view(3, 1, 1)),
        3,
    ),
    "cat": (
        lambda u, v, x: torch.cat([u.relu(), v.relu(), x], 1),
        lambda t, u, v, x: t.cat([_relu(t, u), _relu(t, v), x]),
        8,
    ),
    "split-and-cat": (
        lambda u, v, x: torch.cat([u.relu()[:, 1:], v.relu()[:, :2]], 1),
        lambda t, u, v, x: t.cat([t.move(_relu(t, u), lambda a: a[:, 1:]), t.move(_relu(t, v), lambda a: a[:, :2])]),
        4,
    ),
    "average-pool": (
        lambda u, v, x: functional.avg_pool2d(u.relu(), 2),
        lambda t, u, v, x: t.average(_relu(t, u), nn.AvgPool2d(2)),
        3,
    ),
    "upsample": (
        lambda u, v, x: functional.interpolate(u.relu(), scale_factor=2),
        lambda t, u, v, x: t.move(_relu(t, u), lambda a: functional.interpolate(a, scale_factor=2)),
        3,
    ),
    "flip-and-transpose": (
        lambda u, v, x: u.relu().flip(1).transpose(2, 3).contiguous(),
        lambda t, u, v, x: t.move(_relu(t, u), lambda a: a.flip(1).transpose(2, 3)),
        3,
    ),
    "pad": (
        lambda u, v, x: functional.pad(u.relu(), (1, 0, 2, 1)),
        lambda t, u, v, x: _relu(t, u),
        3,
    ),
    "dropout": (
        lambda u, v, x: functional.dropout(u.relu(), training=False),
        lambda t, u, v, x: _relu(t, u),
        3,
    ),
}


def build(name: str) -> tuple[nn.Module, nn.Module]:
    """The network, and its second layer as the explicit form has it: an explicit pad joins it."""
    with_torch, _, channels = BETWEEN[name]
    net = Between(with_torch, channels, padding=0 if name == "pad" else 1).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.5)
    second: nn.Module = net.second
    if name == "pad":
        second = nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), net.second)
    return net, second


@pytest.mark.parametrize("lower", LOWER)
@pytest.mark.parametrize("middle", MIDDLE)
@pytest.mark.parametrize("name", BETWEEN)
def test_middle_layer_equals_explicit_form(name: str, middle: str, lower: str) -> None:
    net, second = build(name)
    x = torch.randn(2, 2, 6, 4, dtype=torch.float64)
    x[0, 0, :2] = 0
    tape = Tape()
    leaf = tape.leaf(x)
    u, v = (tape.linear(leaf, layer, LOWER[lower][1]) for layer in (net.first, net.other))
    y = tape.linear(BETWEEN[name][1](tape, u, v, leaf), second, MIDDLE[middle][1])
    relevance = torch.randn_like(y.data)
    tape.back(y, relevance)

    composite = rp.Composite([(rp.Name("second"), MIDDLE[middle][0]), (rp.Kind("conv"), LOWER[lower][0])])
    found = rp.LRP(net, composite).explain(x, target=relevance)
    assert_close(found.output, y.data, 1e-13, "output")
    assert leaf.relevance is not None
    assert_close(found.relevance, leaf.relevance, 1e-9)


@pytest.mark.parametrize("middle", MIDDLE)
def test_pad_keeps_no_relevance(middle: str) -> None:
    """A convolution fed by a zero pad is the one with that padding; nothing stays on the pad."""
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    bare = nn.Conv2d(2, 3, 3).double()
    bare.load_state_dict(conv.state_dict())
    x, relevance = torch.randn(2, 2, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    rule = MIDDLE[middle][0]
    expected = rp.LRP(conv, rule).explain(x, target=relevance).relevance
    for pad in (nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.0)):
        found = rp.LRP(nn.Sequential(pad, bare), rule).explain(x, target=relevance).relevance
        assert_close(found, expected, 1e-12, type(pad).__name__)
    assert_close(expected.sum((1, 2, 3)), relevance.sum((1, 2, 3)), 1e-9, "nothing is lost")


class Deep(nn.Module):
    """A batch norm, a residual, a linear head, and two zero-giving layers above one another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 3, 3, stride=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.conv1(x)))
        h = functional.relu(self.conv2(h) + h)
        h = functional.relu(self.conv3(functional.max_pool2d(h, 2)))
        return self.head(h.flatten(1))


@pytest.mark.parametrize("lower", ["epsilon", "gamma", "z-plus", "alpha2-beta1"])
@pytest.mark.parametrize("middle", MIDDLE)
def test_deep_network_equals_explicit_form(middle: str, lower: str) -> None:
    net = Deep().double().eval()
    with torch.no_grad():
        net.norm1.running_mean.normal_()
        net.norm1.running_var.uniform_(0.5, 2)
        net.norm1.weight.normal_()
        net.norm1.bias.normal_()
    x = torch.randn(2, 2, 10, 8, dtype=torch.float64)
    (low_rule, low), (mid_rule, mid) = LOWER[lower], MIDDLE[middle]
    tape = Tape()
    leaf = tape.leaf(x)
    merged = nn.Sequential(net.conv1, net.norm1)  # the two are one linear map
    one = tape.linear(leaf, merged, low)
    h = _relu(tape, one)
    two = tape.linear(h, net.conv2, mid)
    h = _relu(tape, tape.add(two, h))
    three = tape.linear(tape.max_pool(h, 2), net.conv3, mid)
    h = _relu(tape, three)
    y = tape.linear(tape.reshape(h, 2, -1), net.head, Formula(f.plain, 1e-6))
    relevance = torch.randn(2, 3, dtype=torch.float64)
    tape.back(y, relevance)

    composite = rp.Composite(
        [(rp.Name("conv1"), low_rule), (rp.Kind("conv"), mid_rule), (rp.Kind("linear"), rp.Epsilon(1e-6))]
    )
    found = rp.LRP(net, composite).explain(x, target=relevance, layers=["norm1", "conv[23]", "head"])
    assert_close(found.output, y.data, 1e-12, "output")
    assert leaf.relevance is not None
    assert_close(found.relevance, leaf.relevance, 1e-9)
    assert sorted(found.layers) == ["conv2", "conv3", "head", "norm1"]
    for path, value in {"norm1": one, "conv2": two, "conv3": three, "head": y}.items():
        assert value.relevance is not None
        assert_close(found.layers[path], value.relevance, 1e-9, path)
