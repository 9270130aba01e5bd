"""Complex numbers: epsilon on convolutions against its formula, products, and what constants absorb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close

EPS = 0.3
GEOMETRIES = {
    "plain": (F.conv2d, (4, 3, 3, 3), (3, 6, 6), {}),
    "strided": (F.conv2d, (4, 3, 2, 3), (3, 6, 7), {"stride": 2, "padding": 1, "dilation": (1, 2)}),
    "pointwise": (F.conv2d, (4, 3, 1, 1), (3, 4, 4), {}),
    "depthwise": (F.conv2d, (6, 1, 3, 3), (3, 5, 5), {"groups": 3}),
    "row": (F.conv1d, (4, 3, 3), (3, 7), {"padding": "same"}),
    "volume": (F.conv3d, (2, 1, 2, 2, 2), (1, 3, 3, 3), {}),
    "transposed": (F.conv_transpose2d, (3, 4, 3, 3), (3, 4, 4), {"stride": 2, "output_padding": 1}),
}


def number(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


class Complex(nn.Module):
    """A convolution whose outputs are turned by constants, real parts out."""

    def __init__(self, name: str, bias: bool = True) -> None:
        super().__init__()
        self.run, shape, self.size, self.settings = GEOMETRIES[name]
        self.weight = nn.Parameter(number(*shape, seed=2))
        outputs = self.map(number(2, *self.size)).shape[1:]
        self.bias = nn.Parameter(number(outputs[0], seed=3)) if bias else None
        self.turn = number(*outputs, seed=4)

    def map(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.run(x, self.weight, bias, **self.settings)

    def forward(self, x: Tensor) -> Tensor:
        return (self.map(x, self.bias) * self.turn).real.flatten(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_epsilon(name: str, bias: bool) -> None:
    """R_j = Re(conj(a_j) sum_k conj(w_kj) s_k) with s = g |z| / (|z| + eps): the stabiliser points where z does."""
    model = Complex(name, bias)
    x = number(2, *model.size)
    with torch.no_grad():
        units = torch.eye(x[0].numel(), dtype=x.dtype).view(-1, *model.size)
        matrix, z = model.map(units).flatten(1).T, model.map(x, model.bias).flatten(1)  # [O, I], [N, O]
    g = model.turn.flatten().conj()
    s = g * z.abs() / (z.abs() + EPS)
    expected = (x.flatten(1).conj() * (s @ matrix.conj())).real.view(x.shape)
    for rule in (rp.Epsilon(EPS), rp.Epsilon(rp.Stabilizer(EPS))):
        e = rp.LRP(model, rule).explain(x, target=lambda y: y, audit="sites")
        assert_close(e.relevance, expected, rtol=1e-12)
        assert e.audit.unexplained_share < 1e-12 and all(abs(v) < 1e-10 for _, v in e.audit.sites)
        assert e.audit.epsilon == pytest.approx((z.conj() * (g - s)).real.sum().item(), rel=1e-10)
    again = rp.LRP(model, rp.Epsilon(EPS)).explain(x, target=lambda y: y, create_graph=True)
    assert_close(again.relevance.detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("settings", [{"clip": True}, {"norm_scale": True}], ids=str)
def test_other_stabilisers(settings: dict[str, bool]) -> None:
    model = Complex("strided")
    x = number(2, *model.size)
    with torch.no_grad():
        z = model.map(x, model.bias)
    size = z.abs()
    norm = size.square().mean(tuple(range(1, z.ndim)), keepdim=True).sqrt()
    passed = size / size.clamp(min=EPS) if "clip" in settings else size / (size + EPS * norm)
    found = rp.LRP(model, rp.Epsilon(rp.Stabilizer(EPS, **settings))).explain(x, target=lambda y: y)
    expected = rp.LRP(model, rp.Zero()).explain(x, target=lambda y: (y.view(z.shape) * passed).flatten(1))
    assert_close(found.relevance, expected.relevance, rtol=1e-12)


@pytest.mark.parametrize(
    "rule",
    [rp.Gamma(), rp.Gamma(variant="standard"), rp.ZPlus(), rp.AlphaBeta(), rp.Flat(), rp.WSquare(), rp.ZBox(-1.0, 1.0)],
    ids=str,
)
def test_rules_that_have_no_meaning_there(rule: Any) -> None:
    model = Complex("plain")
    with pytest.raises(rp.RuleError, match=r"no meaning for complex numbers, .*'conv'\) is of such: give it Epsilon"):
        rp.LRP(model, rule).explain(number(2, *model.size), target=lambda y: y)


def test_a_bias_absorbs_or_nothing() -> None:
    model = Complex("plain")
    with pytest.raises(rp.RuleError, match=r'complex numbers \(kind \'conv\'\) takes .* with bias="absorb" alone'):
        rp.LRP(model, rp.Epsilon(EPS, bias="zero")).explain(number(2, *model.size), target=lambda y: y)


# -- other calls: a leaf has R = Re(conj(a) g), with g by autograd --

C = number(3, 4, seed=5)
INDEX = torch.tensor([2, 0, 2])
OVER = INDEX[:, None].expand(3, 4)
#: Linear or affine in x and in a constant.
AFFINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a product with a constant": lambda x, c: x * 2.0 + c,
    "addmm": lambda x, c: torch.addmm(c, x, number(4, 4, seed=6)),
    "linear": lambda x, c: F.linear(x, number(4, 4, seed=6), c[0]),
    "a kernel that depends": lambda x, c: F.conv1d(number(1, 2, 9, seed=6), x.view(3, 2, 2), c[:, 0]),
    "cat": lambda x, c: torch.cat([x, c]),
    "where": lambda x, c: torch.where(C.real > 0, x, c),
    "written": lambda x, c: x.index_copy(0, INDEX[:2], c[:2]),
    "written into": lambda x, c: c.index_copy(0, INDEX[:2], x[:2]),
    "added": lambda x, c: x.index_add(0, INDEX, c),
    "added to": lambda x, c: c.scatter_add(0, OVER, x),
    "put": lambda x, c: x.index_put((INDEX[:2],), c[:2]),
    "accumulated": lambda x, c: c.index_put((INDEX,), x, accumulate=True),
    "scattered": lambda x, c: c.scatter(0, OVER[:2], x[:2]),
    "scattered by a mask": lambda x, c: x.masked_scatter(C.real > 0, c),
}


class Turned(nn.Module):
    """Parts of a complex result, so that every part of its gradient counts."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *given: Tensor) -> Tensor:
        z = self.call(*(x * 1.0 for x in given))
        return (z * number(*z.shape, seed=7)).real.reshape(-1)


@pytest.mark.parametrize("name", AFFINE)
def test_constants(name: str) -> None:
    call, x, c = AFFINE[name], number(3, 4), C.clone().requires_grad_()
    model, leaf = Turned(lambda x: call(x, C)), number(3, 4).requires_grad_()
    y = Turned(lambda x: call(x, c))(leaf)
    relevance = torch.randn(y.shape, dtype=torch.float64)
    to_x, to_c = torch.autograd.grad(y, (leaf, c), relevance / y.detach())
    for composite in (rp.Zero(), rp.AttnLRP()):
        e = rp.LRP(model, composite).explain(x, target=lambda y: y * relevance / model(x))
        assert_close(e.relevance, (x.conj() * to_x).real, 1e-10)
        assert abs(e.audit.constants + e.audit.bias - float((C.conj() * to_c).real.sum())) < 1e-10
        assert e.audit.unexplained_share < 1e-10


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": lambda x, y: x * y,
    "mul of another shape": lambda x, y: x * y[:1],
    "matmul": lambda x, y: x @ y.mT,
    "einsum": lambda x, y: torch.einsum("ij,kj->ik", x, y),
    "outer": lambda x, y: torch.outer(x[0], y[1]),
    "vecdot": torch.linalg.vecdot,
}


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_two(name: str, create_graph: bool, explicit: bool) -> None:
    call, given = PRODUCTS[name], (number(3, 4), number(3, 4, seed=2))
    model, leaves = Turned(call), [t.clone().requires_grad_() for t in given]
    y = model(*leaves)
    relevance = torch.randn(y.shape, dtype=torch.float64)
    slopes = torch.autograd.grad(y, leaves, relevance / y.detach())
    target: Any = relevance if explicit else lambda out: out * (relevance / y.detach())
    e = rp.LRP(model, rp.Zero()).explain(*given, target=target, create_graph=create_graph)
    for found, x, slope in zip(e.relevance, given, slopes, strict=True):
        assert_close(found.detach(), (x.conj() * slope).real / 2, 1e-10)


@pytest.mark.parametrize("explicit", [False, True])
def test_a_running_product(explicit: bool) -> None:
    """The n-th has n factors, which share equally."""
    x, relevance = number(3, 4), torch.randn(3, 4, dtype=torch.float64)
    model = Turned(lambda x: x.cumprod(1))
    share = relevance / torch.arange(1, 5)
    wanted = share.flip(1).cumsum(1).flip(1)
    target: Any = relevance.flatten() if explicit else lambda out: out * (relevance.flatten() / model(x))
    e = rp.LRP(model, rp.Zero()).explain(x, target=target)
    assert_close(e.relevance, wanted, 1e-10)
