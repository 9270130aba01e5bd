"""Functions of one tensor keep relevance where it is, however they are written; norms and softmax by hand.

Each function stands between two linear layers. The reference is the explicit form with the identity rule, or
the named function that the hand-written one is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.oracle import formulas as f
from tests.oracle.formulas import Formula
from tests.oracle.tape import Tape
from tests.support.compare import assert_close

Function = Callable[[Tensor], Tensor]


class Sandwich(nn.Module):
    """Linear, what stands between, linear; 2 samples of 5 -> 6 -> 3."""

    def __init__(self, between: Function) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)
        self.between = between
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


def relevance_of(between: Function, x: Tensor, relevance: Tensor, rule: object = None) -> Tensor:
    torch.manual_seed(1)  # the same layers whatever stands between
    model = Sandwich(between)
    return rp.LRP(model, rule or rp.Epsilon(1e-6)).explain(x, target=relevance).relevance


def explicit(between: Function, x: Tensor, relevance: Tensor) -> Tensor:
    torch.manual_seed(1)
    model = Sandwich(between)
    tape, epsilon = Tape(), Formula(f.plain, 1e-6)
    leaf = tape.leaf(x)
    hidden = tape.elementwise(tape.linear(leaf, model.first, epsilon), between)
    tape.back(tape.linear(hidden, model.second, epsilon), relevance)
    assert leaf.relevance is not None
    return leaf.relevance


MODULES: dict[str, nn.Module] = {
    **{
        name: getattr(nn, name)()
        for name in (
            "ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Softplus Sigmoid Tanh Hardtanh"
            " Hardswish Hardsigmoid Softsign Tanhshrink LogSigmoid Identity Dropout AlphaDropout Flatten"
        ).split()
    },
    "Hardshrink": nn.Hardshrink(0.05),
    "Softshrink": nn.Softshrink(0.05),
    "Threshold": nn.Threshold(0.1, 0.3),
    "GELU-tanh": nn.GELU("tanh"),
    "ReLU-in-place": nn.ReLU(inplace=True),
    "SiLU-in-place": nn.SiLU(inplace=True),
    "Hardswish-in-place": nn.Hardswish(inplace=True),
    "ELU-in-place": nn.ELU(inplace=True),
}
FUNCTIONS: dict[str, Function] = {
    **{
        f"torch.{name}": getattr(torch, name)
        for name in "exp expm1 erf sin tan atan sinh asinh sigmoid tanh relu".split()
    },
    **{f"Tensor.{name}": getattr(Tensor, name) for name in "exp abs square sigmoid tanh relu erf sin neg".split()},
    "torch.abs": torch.abs,
    "square": torch.square,
    "pow 2": lambda x: x**2,
    "pow 3": lambda x: torch.pow(x, 3),
    "times itself": lambda x: x * x,
    "sqrt of exp": lambda x: x.exp().sqrt(),
    "log of exp": lambda x: x.exp().add(1.0).log(),
    "cos": torch.cos,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "functional.relu6": functional.relu6,
    "functional.softplus": functional.softplus,
    "functional.silu": functional.silu,
    "functional.mish": functional.mish,
    "functional.elu": functional.elu,
    "functional.softsign": functional.softsign,
    "functional.tanhshrink": functional.tanhshrink,
    "functional.hardsigmoid": functional.hardsigmoid,
    "functional.logsigmoid": functional.logsigmoid,
    "functional.leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "torch.tanh_": lambda x: torch.tanh_(x),
    "Tensor.sigmoid_": lambda x: x.sigmoid_(),
    "ignored return value": lambda x: (x.tanh_(), x)[1],
    "two in a row": lambda x: torch.tanh(functional.silu(x)),
    "squared relu": lambda x: functional.relu(x).square(),
}


@pytest.mark.parametrize("name", [*MODULES, *FUNCTIONS])
def test_identity_rule(name: str) -> None:
    between = MODULES[name].double().eval() if name in MODULES else FUNCTIONS[name]
    x, relevance = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    found = relevance_of(between, x, relevance)
    assert_close(found, explicit(lambda a: between(a.clone()), x, relevance), 1e-9)


HAND_WRITTEN: dict[str, tuple[Function, Function]] = {
    "NewGELU": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: functional.gelu(x, approximate="tanh"),
    ),
    "NewGELU, kept in its type": (
        lambda x: x * (0.5 + 0.5 * torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)).to(x.dtype)),
        lambda x: functional.gelu(x, approximate="tanh"),
    ),
    "GELU of products": (
        lambda x: x * 0.5 * (1.0 + torch.tanh(x * 0.7978845608028654 * (1.0 + 0.044715 * x * x))),
        lambda x: functional.gelu(x, approximate="tanh"),
    ),
    "GELU of erf": (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), functional.gelu),
    "GELU of the normal distribution": (
        lambda x: x * (torch.special.ndtr(x)),
        functional.gelu,
    ),
    "SiLU": (lambda x: x * torch.sigmoid(x), functional.silu),
    "SiLU, other order": (lambda x: x.sigmoid().mul(x), functional.silu),
    "SiLU, in place": (lambda x: torch.sigmoid(x).mul_(x), functional.silu),
    "SiLU of exp": (lambda x: x / (1 + torch.exp(-x)), functional.silu),
    "Mish": (lambda x: x * torch.tanh(functional.softplus(x)), functional.mish),
    "hard swish": (lambda x: x * functional.relu6(x + 3) / 6, functional.hardswish),
    "hard swish, in place": (lambda x: x.mul(functional.relu6(x.add(3)).div_(6)), functional.hardswish),
    "hard swish of clamp": (lambda x: x * (x + 3).clamp(0, 6) / 6, functional.hardswish),
    "sigmoid": (lambda x: 1 / (1 + torch.exp(-x)), torch.sigmoid),
    "sigmoid of reciprocal": (lambda x: torch.reciprocal(torch.exp(-x).add(1)), torch.sigmoid),
    "sigmoid of tanh": (lambda x: (torch.tanh(x / 2) + 1) / 2, torch.sigmoid),
    "tanh": (lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()), torch.tanh),
    "softplus": (lambda x: torch.log(1 + torch.exp(x)), functional.softplus),
    "softsign": (lambda x: x / (1 + x.abs()), functional.softsign),
    "ELU of where": (lambda x: torch.where(x > 0, x, torch.expm1(x)), functional.elu),
    "ReLU of maximum": (lambda x: torch.maximum(x, torch.zeros_like(x)), functional.relu),
    "ReLU of clamp": (lambda x: x.clamp(min=0), functional.relu),
    "ReLU of mask": (lambda x: x * (x > 0), functional.relu),
    "leaky ReLU of maximum": (lambda x: torch.max(x, 0.01 * x), functional.leaky_relu),
    "softmax": (lambda x: x.exp() / x.exp().sum(-1, keepdim=True), lambda x: x.softmax(-1)),
    "softmax, one exp": (lambda x: (lambda e: e / e.sum(1, True))(x.exp()), lambda x: x.softmax(-1)),
    "softmax, shifted": (
        lambda x: (lambda e: e / e.sum(-1, keepdim=True))(torch.exp(x - x.max(-1, keepdim=True).values)),
        lambda x: x.softmax(-1),
    ),
    "softmax, shifted by amax": (
        lambda x: (lambda e: e.div(torch.sum(e, dim=-1, keepdim=True)))((x - x.amax(-1, keepdim=True)).exp()),
        lambda x: x.softmax(-1),
    ),
    "softmax, shifted by a constant": (
        lambda x: (lambda e: e / e.sum(-1, keepdim=True))((x - x.detach().amax(-1, keepdim=True)).exp()),
        lambda x: x.softmax(-1),
    ),
}


@pytest.mark.parametrize("rule", [rp.Epsilon(1e-6), rp.ZPlus(), rp.Gamma(0.25)], ids=str)
@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_equals_named(name: str, rule: rp.Rule) -> None:
    by_hand, named = HAND_WRITTEN[name]
    x, relevance = 2 * torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    assert_close(relevance_of(by_hand, x, relevance, rule), relevance_of(named, x, relevance, rule), 1e-8)


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_at_special_values(name: str) -> None:
    """Far out, where f(x) / x by autograd would overflow or change sign, and with nothing around it."""
    by_hand, named = HAND_WRITTEN[name]
    x = torch.tensor([[-4.0, -1.5, 0.25, 3.5, 6.0, -0.125]], dtype=torch.float64)
    relevance = torch.randn(1, 6, dtype=torch.float64)

    class Alone(nn.Module):
        def __init__(self, function: Function) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)[:, :]  # not the last call, so that none is taken for a head's softmax

    found = rp.LRP(Alone(by_hand), rp.Zero()).explain(x, target=relevance).relevance
    expected = rp.LRP(Alone(named), rp.Zero()).explain(x, target=relevance).relevance
    assert_close(found, expected, 1e-8)
    if "softmax" not in name and "ReLU" not in name:
        carries = named(x) != 0  # a hard swish is flat zero below -3
        assert_close(found[carries], relevance[carries], 1e-8, "relevance stays where it is")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_silu_far_out(dtype: torch.dtype) -> None:
    """`g sigmoid(x)` wherever x stands; the derivatives of other functions round to it at most."""
    x = torch.tensor([[-500.0, -88.0, -41.0, -20.0, -1e-3, 1e-3, 19.5, 20.5, 39.5, 40.5, 88.0, 500.0]], dtype=dtype)
    explanation = rp.LRP(nn.SiLU(), rp.AttnLRP()).explain(x, target=(slice(None),), layers="")
    assert_close(explanation.gradients[""], torch.ones_like(x), 0.0)
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(explanation.relevance, x * torch.sigmoid(x), rtol=rounding, atol=1e-37)


# -- norms --

WEIGHT = torch.tensor([0.5, 1.5, -1.0, 2.0, 0.75, 1.25], dtype=torch.float64)
BIAS = torch.tensor([0.1, -0.2, 0.3, 0.0, -0.4, 0.5], dtype=torch.float64)
EPS = 1e-5


def layer_norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, (6,), WEIGHT, BIAS, EPS)


def rms_norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, (6,), WEIGHT, EPS)


def _by_square(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + EPS) * WEIGHT + BIAS


def _by_var_mean(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, dim=-1, unbiased=False, keepdim=True)
    return (x - mean) * torch.rsqrt(var + EPS) * WEIGHT + BIAS


NORMS: dict[str, tuple[Function, Function]] = {
    "LayerNorm of var": (
        lambda x: (
            (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + EPS).sqrt() * WEIGHT + BIAS
        ),
        layer_norm,
    ),
    "LayerNorm of rsqrt": (
        lambda x: (x - x.mean(-1, True)) * (x.var(-1, unbiased=False, keepdim=True) + EPS).rsqrt() * WEIGHT + BIAS,
        layer_norm,
    ),
    "LayerNorm of squares": (_by_square, layer_norm),
    "LayerNorm of var_mean": (_by_var_mean, layer_norm),
    "LayerNorm of pow": (
        lambda x: (x - x.mean(-1, True)) / ((x - x.mean(-1, True)).pow(2).mean(-1, True) + EPS) ** 0.5 * WEIGHT + BIAS,
        layer_norm,
    ),
    "RMSNorm of pow": (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * WEIGHT, rms_norm),
    "RMSNorm of square": (lambda x: WEIGHT * (x / torch.sqrt(x.square().mean(-1, True) + EPS)), rms_norm),
    "RMSNorm of product": (lambda x: WEIGHT * (x * ((x * x).mean(-1, True) + EPS).pow(-0.5)), rms_norm),
    "RMSNorm in float32": (
        lambda x: WEIGHT * (x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype),
        rms_norm,
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_hand_written_norm_equals_named(name: str) -> None:
    by_hand, named = NORMS[name]
    x, relevance = 2 * torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    hidden = torch.randn(2, 6, dtype=torch.float64)
    assert_close(by_hand(hidden), named(hidden), 1e-12, "the two are one function")
    assert_close(relevance_of(by_hand, x, relevance), relevance_of(named, x, relevance), 1e-8)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_norm_equals_explicit_form(norm: Function) -> None:
    """With its statistics held fixed a norm is a linear map: centre, scale, shift; LRP-0 passes it."""
    x, relevance = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    rows = []
    for a, r in zip(x, relevance):
        if norm is layer_norm:
            sigma = (a.var(unbiased=False) + EPS).sqrt()
            w = WEIGHT[:, None] * (torch.eye(6, dtype=torch.float64) - 1 / 6) / sigma
            z = w @ a + BIAS
        else:
            w = torch.diag(WEIGHT / (a.square().mean() + EPS).sqrt())
            z = w @ a
        rows.append((w * a * (r / z)[:, None]).sum(0))

    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return norm(x)

    found = rp.LRP(Norm(), rp.Zero()).explain(x, target=relevance)
    assert_close(found.relevance, torch.stack(rows), 1e-9)


def test_group_and_instance_norm_equal_explicit_form() -> None:
    """The same for statistics over groups of channels and over single ones."""
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    relevance = torch.randn_like(x)
    weight, bias = torch.rand(4, dtype=torch.float64) + 0.5, torch.randn(4, dtype=torch.float64)
    group, instance = nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)
    for module, groups in ((group, 2), (instance, 4)):
        module.double().eval()
        with torch.no_grad():
            module.weight.copy_(weight)
            module.bias.copy_(bias)
        a = x.reshape(2, groups, -1)
        mean = a.mean(-1, keepdim=True)
        scale = (
            weight.repeat_interleave(6).reshape(1, groups, -1) / (a.var(-1, unbiased=False, keepdim=True) + EPS).sqrt()
        )
        z = (a - mean) * scale + bias.repeat_interleave(6).reshape(1, groups, -1)
        g = relevance.reshape(2, groups, -1) / z * scale
        expected = (a * (g - g.mean(-1, keepdim=True))).reshape(x.shape)
        found = rp.LRP(module, rp.Zero()).explain(x, target=relevance)
        assert_close(found.output, z.reshape(x.shape), 1e-12, "output")
        assert_close(found.relevance, expected, 1e-8, type(module).__name__)
