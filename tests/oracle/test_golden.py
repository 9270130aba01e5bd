"""Numbers with a derivation: golden vectors, and cases that other libraries' tests and papers give.

Each stands for itself; no other test's code is behind it. Outputs are explained with an explicit relevance,
unless the source starts from the output's value.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.oracle import formulas as f
from tests.oracle.dense import densify
from tests.oracle.formulas import Formula
from tests.support.compare import assert_close, assert_digits
from tests.support.networks import Of

TINY = 1e-30
D = torch.float64


def linear(weight: object, bias: object = None) -> nn.Linear:
    w = torch.tensor(weight, dtype=D)
    layer = nn.Linear(w.shape[1], w.shape[0], bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(w)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=D))
    return layer


def explain(model: nn.Module, x: object, relevance: object, rule: object = None) -> Tensor:
    """Relevance of one sample, without the batch dimension."""
    x, relevance = torch.tensor([x], dtype=D), torch.tensor([relevance], dtype=D)
    found = rp.LRP(model, rp.Zero() if rule is None else rule).explain(x, target=relevance)
    return found.relevance[0]


# case A: w = (1, -1), b = -1, x = (1, 1), z = -1.  case B: w = (1, -2, .5), b = .5, x = (1, -1, 2), z = 4.5
A = (linear([[1, -1]], [-1]), [1, 1])
B = (linear([[1, -2, 0.5]], [0.5]), [1, -1, 2])
GOLDEN = {
    "zero": (rp.Zero(), Formula(f.plain), (-1, 1), (0.2222, 0.4444, 0.2222)),
    "epsilon": (rp.Epsilon(TINY), Formula(f.plain, TINY), (-1, 1), (0.2222, 0.4444, 0.2222)),
    "gamma": (
        rp.Gamma(0.25, epsilon=TINY),
        Formula(f.gamma_generalised(0.25), TINY),
        (-0.6667, 0.8333),
        (0.2222, 0.4444, 0.2222),
    ),
    "gamma-standard": (
        rp.Gamma(0.25, variant="standard", epsilon=TINY),
        Formula(f.gamma_standard(0.25), TINY),
        (-1.6667, 1.3333),
        (0.2439, 0.3902, 0.2439),
    ),
    "z-plus": (rp.ZPlus(epsilon=TINY), Formula(f.alpha_beta(1, 0), TINY), (1, 0), (0.2222, 0.4444, 0.2222)),
    "alpha1-beta0": (
        rp.AlphaBeta(1, 0, epsilon=TINY),
        Formula(f.alpha_beta(1, 0), TINY),
        (1, 0),
        (0.2222, 0.4444, 0.2222),
    ),
    "alpha2-beta1": (
        rp.AlphaBeta(2, 1, epsilon=TINY),
        Formula(f.alpha_beta(2, 1), TINY),
        (2, -0.5),
        (0.4444, 0.8889, 0.4444),
    ),
    "w-square": (rp.WSquare(epsilon=TINY), Formula(f.w_square, TINY), (0.5, 0.5), (0.1905, 0.7619, 0.0476)),
    "flat": (rp.Flat(), Formula(f.flat), (0.5, 0.5), (0.3333, 0.3333, 0.3333)),
    "z-box": (
        rp.ZBox(-4.0, 4.0, epsilon=TINY),
        Formula(f.z_box(-4.0, 4.0), TINY),
        (0.625, 0.375),
        (0.2778, 0.5556, 0.1667),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name: str) -> None:
    rule, _, first, second = GOLDEN[name]
    assert_digits(explain(*A, [1.0], rule), first, label="case A")
    assert_digits(explain(*B, [1.0], rule), second, label="case B")


@pytest.mark.parametrize("name", GOLDEN)
def test_reference_gives_golden_vectors(name: str) -> None:
    """The other tests' explicit form is held to the same numbers."""
    _, formula, *expected = GOLDEN[name]
    for (layer, x), digits in zip((A, B), expected):
        a = torch.tensor([x], dtype=D)
        assert_digits(formula(densify(layer, (len(x),)), a, torch.ones(1, 1, dtype=D))[0], digits)


def test_w_square_with_the_bias_taken_out_is_the_definition() -> None:
    """w² has no bias; a peer that squares the bias along with the weights loses a third of case A."""
    assert_close(explain(*A, [1.0], rp.WSquare(epsilon=TINY)).sum(), torch.tensor(1.0, dtype=D))


@pytest.mark.parametrize(
    ("name", "sums"),
    [("epsilon", (0, 0.8889)), ("z-box", (1, 1)), ("flat", (1, 1)), ("alpha2-beta1", (1.5, 1.7778))],
)
def test_sums(name: str, sums: tuple[float, float]) -> None:
    for (layer, x), expected in zip((A, B), sums):
        assert_digits(explain(layer, x, [1.0], GOLDEN[name][0]).sum(), expected)


def test_stabiliser_at_zero_is_positive() -> None:
    """w = (1, -1), x = (1, 1): z = 0 and s(z) = +eps, so R = x w / eps R."""
    found = explain(linear([[1, -1]]), [1, 1], [3.0], rp.Epsilon(0.5))
    assert_digits(found, (6, -6), 10)


def test_stabiliser_follows_the_sign() -> None:
    """z = -2: R = w x / (-2 - 0.5) R with w x = (-3, 1)."""
    assert_digits(explain(linear([[-3, 1]]), [1, 1], [1.0], rp.Epsilon(0.5)), (1.2, -0.4), 10)


# -- cases of RelevancePropagation.jl's tests --

W, B2 = [[3, 4], [5, 6]], [7, 8]


def test_zero_rule_and_relu() -> None:
    """a = (1, 2): z = (18, 25). R_1 = 3/18 * 1/3 + 5/25 * 2/3 = 17/90, R_2 = 8/18 * 1/3 + 12/25 * 2/3."""
    found = explain(nn.Sequential(linear(W, B2), nn.ReLU()), [1, 2], [1 / 3, 2 / 3])
    assert_digits(found, (17 / 90, 316 / 675), 12)


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([-2.0, 2.0], dtype=D) + torch.tensor([1.0, -3.0], dtype=D)


def test_scale() -> None:
    """w = (-2, 2), b = (1, -3): z = (-1, 1), R = (-2 / -1 * 1/3, 4 / 1 * 2/3)."""
    assert_digits(explain(Scale(), [1, 2], [1 / 3, 2 / 3]), (2 / 3, 8 / 3), 12)


def test_alpha_beta() -> None:
    """w = (1, -1), b = -1, x = (1, 1), R = z = -1."""
    layer = linear([[1, -1]], [-1])
    assert_digits(explain(layer, [1, 1], [-1.0], rp.AlphaBeta(1, 0, epsilon=TINY)), (-1, 0), 12)
    assert_digits(explain(layer, [1, 1], [-1.0], rp.AlphaBeta(2, 1, epsilon=TINY)), (-2, 0.5), 12)
    assert_digits(explain(layer, [1, 1], [-1.0], rp.ZPlus(epsilon=TINY)), (-1, 0), 12)


def test_max_pool() -> None:
    """The winner takes all: 10 wins both windows on the left, 6 and 9 those on the right."""
    a = [[[1, 2, 3], [10, 5, 6], [7, 8, 9]]]
    found = explain(nn.MaxPool2d(2, stride=1), a, [[[1 / 30, 2 / 30], [3 / 30, 4 / 30]]])
    assert_digits(found * 30, [[[0, 0, 0], [4, 0, 2], [0, 0, 4]]], 10)


class Skip(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


def test_skip_connection() -> None:
    """x = (1, 2), y = x + relu(W x + b) = (19, 27)."""
    model = Skip(nn.Sequential(linear(W, B2), nn.ReLU()))
    assert_digits(explain(model, [1, 2], [1.0, 0.0]), (4 / 19, 8 / 19), 12)
    assert_digits(explain(model, [1, 2], [0.0, 1.0]), (5 / 27, 14 / 27), 12)


def test_generalised_gamma_by_construction() -> None:
    """W = [[1, -4], [2, 0]], b = (-2, 3), a = (-1, 1), R = (-.07, 1), gamma = 1/4.

    z_1 = -1 - 4 - 2 = -7 < 0: contributions (-1, -4) and bias -2, all negative, all times 1.25:
    shares (1, 4) / 7 of -.07. z_2 = -2 + 0 + 3 = 1 > 0: contributions (-2, 0), bias 3 * 1.25 = 3.75,
    denominator 1.75: shares (-2, 0) / 1.75 of 1.
    """
    layer = linear([[1, -4], [2, 0]], [-2, 3])
    found = explain(layer, [-1, 1], [-0.07, 1.0], rp.Gamma(0.25, epsilon=TINY))
    assert_digits(found, (-0.01 - 2 / 1.75, -0.04), 12)


# -- cases of captum's tests: seeded with the output --


def twos_and_threes(first: float = 2.0) -> nn.Module:
    """Three hidden units of weights 2 and one output of weights 3; `first` is the weight at [0, 0]."""
    w = [[first, 2, 2], [2, 2, 2], [2, 2, 2]]
    return nn.Sequential(linear(w), nn.ReLU(), linear([[3, 3, 3]]))


def value(model: nn.Module, x: list[float], rule: object, target: object = None) -> Tensor:
    found = rp.LRP(model, rule).explain(torch.tensor([x], dtype=D), target=target)
    return found.relevance[0]


def test_epsilon_network() -> None:
    assert_digits(value(twos_and_threes(), [1, 2, 3], rp.Epsilon(TINY), 0), (18, 36, 54), 8)


def test_gamma_network() -> None:
    """h = (8, 12, 12), y = 96, R_h = (24, 36, 36); row 0 with gamma 1: (-2, 8, 12) / 18 of 24."""
    rules = rp.Composite([(rp.Name("0"), rp.Gamma(1.0, epsilon=TINY)), (rp.Name("2"), rp.Gamma(0.25, epsilon=TINY))])
    assert_digits(value(twos_and_threes(-2), [1, 2, 3], rules, 0), (28 / 3, 104 / 3, 52), 8)


def test_z_plus_network() -> None:
    for rule in (rp.ZPlus(epsilon=TINY), rp.AlphaBeta(1, 0, epsilon=TINY)):
        assert_digits(value(twos_and_threes(-2), [1, 2, 3], rule, 0), (12, 33.6, 50.4), 8)


def test_pass_network() -> None:
    """Pass on the first layer: the hidden relevance (24, 36, 36) is the input's."""
    rules = rp.Composite([(rp.Name("0"), rp.Pass()), (rp.Name("2"), rp.Epsilon(TINY))])
    assert_digits(value(twos_and_threes(-2), [1, 2, 3], rules, 0), (24, 36, 36), 8)


def test_tanh_network() -> None:
    """All weights .1: tanh keeps relevance where it is, so y = .3 tanh(.6) splits as 1 : 2 : 3."""
    model = nn.Sequential(linear([[0.1] * 3] * 3), nn.Tanh(), linear([[0.1] * 3]))
    assert_digits(value(model, [1, 2, 3], rp.Epsilon(TINY), 0), (0.0269, 0.0537, 0.0806), 4)


def test_skip_network() -> None:
    """y = 5 (x1 + x2) + x, x = (2, 3): y_1 = 28 = 10 + 15 + 3."""
    assert_digits(value(Skip(linear([[5, 5], [5, 5]])), [2, 3], rp.Epsilon(TINY), 1), (10, 18), 8)


def test_convolution() -> None:
    """Ones 3x3 on 0..15, biases (-50, -75): output (0, 1) of the first filter is 4, R = x in its window."""
    conv = nn.Conv2d(1, 2, 3).double()
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.bias.copy_(torch.tensor([-50.0, -75.0]))
    x = torch.arange(16, dtype=D).reshape(1, 1, 4, 4)
    found = rp.LRP(nn.Sequential(conv, nn.ReLU()), rp.Epsilon(TINY)).explain(x, target=(0, 0, 1))
    assert found.output[0, 0, 0, 1] == 4
    assert_digits(found.relevance[0, 0], [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]], 8)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear0 = linear([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        self.linear1 = linear([[1, 1, 1]] * 4, [-10, 1, 1, 1])
        self.linear2 = linear([[1, 1, 1, 1]] * 2, [-1, 1])

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        return self.linear2(torch.relu(self.linear1(self.linear0(x + more))))


def test_two_inputs() -> None:
    """x = (1, 2, 3) and 3 x: the sum's relevance (16, 32, 48) is split 1 : 3."""
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=D)
    first, second = rp.LRP(TwoInputs(), rp.Epsilon(TINY)).explain(x, 3 * x, target=0).relevance
    assert_digits(first[0], (4, 8, 12), 8)
    assert_digits(second[0], (12, 24, 36), 8)


# -- products, sums, softmax, norms: by hand --


def pair(function: object, a: object, b: object, relevance: object, rule: object = None) -> tuple[Tensor, Tensor]:
    a, b, relevance = (torch.tensor([value], dtype=D) for value in (a, b, relevance))
    first, second = rp.LRP(Of(function), rule or rp.Zero()).explain(a, b, target=relevance).relevance
    return first[0], second[0]


def test_bilinear_form_gives_half_to_each() -> None:
    """a = (1, 2), b = (3, -1): z = 3 - 2 = 1, and each side gets a b / 2 of R."""
    for product in (
        lambda a, b: (a[:, None] @ b[:, :, None]).flatten(1),
        lambda a, b: torch.einsum("ni,ni->n", a, b)[:, None],
        lambda a, b: (a * b).sum(1, keepdim=True),
    ):
        first, second = pair(product, [1, 2], [3, -1], [1.0])
        assert_digits(first, (1.5, -1), 12)
        assert_digits(second, (1.5, -1), 12)


def test_signed_residual() -> None:
    """a = (1, -2), f = (3, 1), y = (4, -1), R = (1, 1)."""
    first, second = pair(lambda a, f: a + f, [1, -2], [3, 1], [1.0, 1.0])
    assert_digits(first, (0.25, 2), 12)
    assert_digits(second, (0.75, -1), 12)


def softmax_digits(rule: object) -> Tensor:
    identity = linear([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return explain(nn.Sequential(nn.Softmax(-1), identity), [0, 1, 2], [0.1, 0.3, 0.6], rule)


def test_softmax() -> None:
    """Deep Taylor: R_i = x_i (R_i - s_i sum R)."""
    s = torch.tensor([0.0, 1.0, 2.0]).softmax(0).double()
    assert_digits(softmax_digits(None), (0, 0.3 - s[1], 2 * (0.6 - s[2])), 6)
    assert_digits(softmax_digits(None), (0, 0.0553, -0.1305))


def test_layer_norm() -> None:
    """x = (1, 3), relevance on the first unit only: centring gives (1/2, -3/2) / (1 - 2) = (-1/2, 3/2)."""
    norm = nn.LayerNorm(2, elementwise_affine=False, eps=0.0).double()
    assert_digits(explain(norm, [1, 3], [1.0, 0.0]), (-0.5, 1.5), 10)


def test_rms_norm() -> None:
    """The scale is a constant and every element its own: relevance stays where it is."""
    norm = nn.RMSNorm(3).double()
    assert_digits(explain(norm, [1, -3, 2], [0.2, -0.7, 1.1]), (0.2, -0.7, 1.1), 10)
