"""What usually is a parameter may depend on the input: it then takes its part of the relevance, as in a product or sum.

The oracle writes the call out with `detach` where the rules hold something constant.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw
from tests.support.compare import assert_close
from tests.support.networks import Of

Form = Callable[..., Tensor]


def half(a: Tensor, b: Tensor) -> Tensor:
    y = a * b
    return y / 2 + y.detach() / 2 if a.requires_grad and b.requires_grad else y


def centred(x: Tensor, dims: tuple[int, ...], eps: float = 1e-5) -> Tensor:
    std = (x.var(dims, correction=0, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(dims, keepdim=True)) / std


def by_channel(t: Tensor) -> Tensor:
    return t.view(-1, 1)


MEAN, VAR = draw(4, seed=7), draw(4, seed=8).abs() + 0.5
#: The call of x [3, 4, 5] and two vectors, their lengths, and what it comes to.
CASES: dict[str, tuple[int, Form, Form]] = {
    "layer_norm": (
        5,
        lambda x, w, b: F.layer_norm(x, (5,), w, b),
        lambda x, w, b: half(centred(x, (-1,)), w) + b,
    ),
    "native_layer_norm": (
        5,
        lambda x, w, b: torch.native_layer_norm(x, [5], w, b, 1e-5)[0],
        lambda x, w, b: half(centred(x, (-1,)), w) + b,
    ),
    "rms_norm": (
        5,
        lambda x, w, b: F.rms_norm(x, (5,), w, 1e-5) + b,
        lambda x, w, b: half(x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt().detach(), w) + b,
    ),
    "group_norm": (
        4,
        lambda x, w, b: F.group_norm(x, 2, w, b),
        lambda x, w, b: (
            half(centred(x.reshape(3, 2, -1), (-1,)).reshape(x.shape), by_channel(w)) + by_channel(b)
        ),
    ),
    "instance_norm": (
        4,
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
        lambda x, w, b: half(centred(x, (-1,)), by_channel(w)) + by_channel(b),
    ),
    "batch_norm": (
        4,
        lambda x, w, b: F.batch_norm(x, MEAN, VAR, w, b),
        lambda x, w, b: (
            half((x - by_channel(MEAN)) / by_channel((VAR + 1e-5).sqrt()), by_channel(w)) + by_channel(b)
        ),
    ),
    "prelu": (4, lambda x, w, b: F.prelu(x, w) + b.sum(), lambda x, w, b: (
        torch.where(x > 0, x, half(x, by_channel(w))) + b.sum()
    )),
    "bilinear": (
        5,
        lambda x, w, b: F.bilinear(x, w.expand(3, 4, 5), draw(5, 5, 5, seed=6), b),
        lambda x, w, b: (lambda y: y / 2 + y.detach() / 2)(F.bilinear(x, w.expand(3, 4, 5), draw(5, 5, 5, seed=6)))
        + b,
    ),
}  # fmt: skip


class Called(nn.Module):
    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return self.form(x, w, b)


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("name", CASES)
def test_scales_and_shifts(name: str, create_graph: bool) -> None:
    length, form, written_out = CASES[name]
    given = [draw(3, 4, 5), draw(length, seed=2), draw(length, seed=3)]
    leaves = [t.clone().requires_grad_() for t in given]
    y = written_out(*leaves)
    relevance = draw(*y.shape, seed=4)
    slopes = torch.autograd.grad(y, leaves, relevance / y.detach())
    e = rp.LRP(Called(form), rp.Zero()).explain(*given, target=relevance, create_graph=create_graph)
    assert_close(e.output.detach(), y.detach(), 1e-12)
    for found, x, slope, which in zip(e.relevance, given, slopes, "xwb", strict=True):
        assert_close(found.detach(), x * slope, 1e-9, which)
    assert e.audit.unexplained_share < 1e-10


@pytest.mark.parametrize("name", ["layer_norm", "group_norm", "instance_norm", "batch_norm"])
def test_of_a_constant(name: str) -> None:
    """The normalised tensor is then a constant factor."""
    length, form, written_out = CASES[name]
    x, w, b = draw(3, 4, 5), draw(length, seed=2), draw(length, seed=3)

    class Styled(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return form(x, w * 1.0, b)

    leaf = w.clone().requires_grad_()
    y = written_out(x, leaf, b)
    relevance = draw(*y.shape, seed=4)
    (slope,) = torch.autograd.grad(y, leaf, relevance / y.detach())
    e = rp.LRP(Styled(), rp.Zero()).explain(w, target=relevance)
    assert_close(e.relevance, w * slope, 1e-9)
    assert e.audit.unexplained_share < 1e-10


def test_a_number_that_fills_what_is_masked() -> None:
    """A mask's value that depends on the input, written into what does not, or does."""
    mask, constant = draw(3, 4) > 0, draw(3, 4, seed=5)
    x, relevance = draw(3, 4, seed=2), draw(3, 4, seed=3)

    class Filled(nn.Module):
        def __init__(self, base: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x).masked_fill(mask, x.sum())

    to_sum = x / x.sum() * relevance[mask].sum()
    e = rp.LRP(Filled(lambda x: constant), rp.Zero()).explain(x, target=relevance)
    assert_close(e.relevance, to_sum, 1e-10)
    assert e.audit.constants == pytest.approx(float(relevance[~mask].sum()))
    e = rp.LRP(Filled(lambda x: x * 2.0), rp.Zero()).explain(x, target=relevance)
    assert_close(e.relevance, to_sum + torch.where(mask, 0.0, relevance), 1e-10)
    assert abs(e.audit.constants) < 1e-12


@pytest.mark.parametrize("constant", ["real", "imag", "none"])
def test_complex_of_two_parts(constant: str) -> None:
    x, c, relevance = draw(3, 4), draw(3, 4, seed=2), draw(3, 4, seed=3)

    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.complex(c if constant == "real" else 2.0 * x, c if constant == "imag" else x.flip(0))
            return z.abs()

    def share(part: Tensor, other: Tensor) -> Tensor:
        """Of `|part + i other|`, which is of degree one."""
        return relevance * part**2 / (part**2 + other**2)

    real, imag = (c if constant == "real" else 2.0 * x), (c if constant == "imag" else x.flip(0))
    wanted = torch.zeros_like(x)
    if constant != "real":
        wanted = wanted + share(real, imag)
    if constant != "imag":
        wanted = wanted + share(imag, real).flip(0)
    e = rp.LRP(Parts(), rp.Zero()).explain(x, target=relevance)
    assert_close(e.relevance, wanted, 1e-10)
    assert abs(e.audit.constants - float(relevance.sum() - wanted.sum())) < 1e-10


LN2 = torch.log(torch.tensor(2.0, dtype=torch.float64))
PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "vecdot": (lambda x: torch.linalg.vecdot(x, draw(3, 4)), lambda x: (x * draw(3, 4)).sum(-1)),
    "vecdot of two": (lambda x: torch.linalg.vecdot(x, x.flip(0), dim=0), lambda x: (x * x.flip(0)).sum(0)),
    "multi_dot": (
        lambda x: torch.linalg.multi_dot([draw(2, 3), x, draw(4, 2), x.sum(0)[:2]]),
        lambda x: draw(2, 3) @ x @ draw(4, 2) @ x.sum(0)[:2],
    ),
    "matrix_power": (lambda x: torch.linalg.matrix_power(x[:, :3], 3), lambda x: x[:, :3] @ x[:, :3] @ x[:, :3]),
    "native_layer_norm": (
        lambda x: torch.native_layer_norm(x, [4], None, draw(4), 1e-5)[0],
        lambda x: F.layer_norm(x, [4], None, draw(4)),
    ),
    "its statistics": (
        lambda x: torch.cat([y + x.sum() for y in torch.native_layer_norm(x, [4], None, None, 1e-5)], 1),
        lambda x: torch.cat(
            [
                F.layer_norm(x, [4]) + x.sum(),
                x.mean(-1, keepdim=True).detach() + x.sum(),
                (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt().detach() + x.sum(),
            ],
            1,
        ),
    ),
    "arccos": (lambda x: torch.arccos(x.tanh()), lambda x: torch.acos(x.tanh())),
    "arctan2": (lambda x: torch.arctan2(x, draw(3, 4)), lambda x: torch.atan2(x, draw(3, 4))),
    "logaddexp2": (
        lambda x: torch.logaddexp2(x, draw(3, 4)),
        lambda x: torch.logaddexp(x * LN2, draw(3, 4) * LN2) / LN2,
    ),
    "gammaln": (lambda x: torch.special.gammaln(x.square() + 1), lambda x: torch.lgamma(x.square() + 1)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_other_names(name: str) -> None:
    """Calls that say the same, and are explained alike."""
    call, written_out = PRODUCTS[name]
    x = draw(3, 4, seed=5)
    relevance = draw(*call(x).shape, seed=3)

    for composite in (rp.Zero(), rp.ZPlus()):
        found, wanted = (rp.LRP(Of(f), composite).explain(x, target=relevance) for f in (call, written_out))
        assert_close(found.output, wanted.output, 1e-12)
        assert_close(found.relevance, wanted.relevance, 1e-10)


def test_a_fill_out_of_place() -> None:
    """Nothing is left of what is filled, and it is left as it was."""

    class Filled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.fill(x, 2.0)

    x, relevance = draw(3, 4), draw(3, 4, seed=2)
    e = rp.LRP(Filled(), rp.Zero()).explain(x, target=relevance)
    assert_close(e.output, x + 2.0, 1e-14)
    assert_close(e.relevance, x / (x + 2.0) * relevance, 1e-12)


INDEX = torch.tensor([0, 2, 0])
REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "scatter_reduce": lambda x: x.scatter_reduce(0, INDEX[:, None].expand(3, 4), x, "prod"),
    "index_reduce": lambda x: draw(3, 4, seed=2).index_reduce(0, INDEX, x, "prod"),
    "segment_reduce": lambda x: torch.segment_reduce(x, "sum", lengths=torch.tensor([1, 2]), initial=1.0),
    "matrix_power": lambda x: torch.matrix_power(x[:, :3], -1),
    "stft": lambda x: torch.stft(x.flatten(), 4, window=x[0].abs(), return_complex=True).abs(),
}


@pytest.mark.filterwarnings("ignore:.*_reduce.*:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_named(name: str) -> None:
    model = Of(lambda x: REFUSED[name](2.0 * x))
    with pytest.raises(rp.UnknownOperationError, match=f"{name}: .* no rule. Give the module around it one"):
        rp.LRP(model, rp.Zero()).explain(draw(3, 4), target=lambda y: y.flatten()[0:1])


def test_a_random_slope_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.RReLU()), torch.randn(2, 3)
    with pytest.raises(rp.ModelStateError, match=r"rrelu in training mode \(module '1'\): the explanation would be"):
        rp.LRP(model, rp.Zero()).explain(x, target=0)
    assert rp.LRP(model.eval(), rp.Zero()).explain(x, target=0).audit.balanced
