"""What a rule saves leaves no trace: parts instead of the whole, the input's layout instead of its values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop import numerics
from relprop.numerics import damped, dot, entrywise
from relprop.ops.convolution import Conv
from relprop.ops.maps import Dense, LinearMap
from tests.oracle.maps import MAPS, Map
from tests.support.compare import assert_close
from tests.support.networks import residual_net


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", [m for m in MAPS if m.kind is None], ids=str)
def test_epsilon_reads_no_value_of_the_input(case: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = case.make(case.biases[0]), torch.randn(2, *case.in_shape, dtype=torch.float64)
    v = torch.randn_like(model(x))
    explain = lambda: rp.LRP(model, rp.Epsilon(0.1)).explain(x, target=lambda z: (z * v).flatten(1).sum(1))  # noqa: E731
    expected, seen, original = explain().relevance, [], LinearMap.input

    def watched(op: LinearMap, a: Tensor | None) -> Tensor:
        seen.append(a)
        return original(op, a)

    monkeypatch.setattr(LinearMap, "input", watched)
    assert torch.equal(explain().relevance, expected)
    assert seen and all(a is None for a in seen), "the input was kept"
    kept = lambda self, op: (True, True)  # noqa: E731
    monkeypatch.setattr(rp.Epsilon, "keeps", kept)
    assert torch.equal(explain().relevance, expected)
    assert seen[-1] is not None


@pytest.mark.parametrize(
    "rule", [rp.Epsilon(bias="zero"), rp.Epsilon(rp.Stabilizer(1e-6)), rp.Gamma(0.25), rp.ZPlus()], ids=str
)
def test_other_rules_are_given_the_input(rule: Any) -> None:
    op = Dense(torch.randn(3, 2), torch.randn(3))
    with torch.no_grad():
        assert rule.keeps(op) == (True, True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strided", [False, True])
def test_parts_of_half_precision_make_the_whole(
    dtype: torch.dtype, strided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    g, z = torch.randn(5, 7, 3).to(dtype), torch.randn(5, 7, 3).to(dtype)
    if strided:
        z = z.transpose(0, 1).contiguous().transpose(0, 1)
    make = lambda g, z: damped(g, z, 0.5)  # noqa: E731
    whole = make(g.float(), z.float()).to(dtype)
    assert torch.equal(entrywise(make, g, z, dtype=dtype), whole)
    monkeypatch.setattr(numerics, "_PART", 4)
    assert torch.equal(entrywise(make, g, z, dtype=dtype), whole)
    assert_close(whole.double(), g.double() * z.double() / (z.double() + 0.5 * z.double().sign()), rtol=1e-2)


@pytest.mark.parametrize("preset", [rp.UniformEpsilon(), rp.EpsilonPlus()], ids=str)
def test_parts_change_neither_relevance_nor_books(preset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = residual_net().bfloat16(), torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)
    whole = rp.LRP(model, preset).explain(x, target=1)
    monkeypatch.setattr(numerics, "_PART", 5)
    parts = rp.LRP(model, preset).explain(x, target=1)
    assert torch.equal(parts.relevance, whole.relevance)
    assert parts.audit.epsilon == pytest.approx(whole.audit.epsilon, rel=1e-4, abs=1e-6)
    assert parts.audit.bias == pytest.approx(whole.audit.bias, rel=1e-6)


def test_damped_relevance_of_nothing_is_nothing() -> None:
    z = torch.tensor([0.0, 3.0, -3.0, 1e-9], dtype=torch.float64)
    g = torch.tensor([7.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    with torch.no_grad():
        for known in (False, True):
            taken = z.abs() if known else z
            stable = taken + 1e-3 * taken.sign()
            assert_close(damped(g, taken, 1e-3, known), g * taken / stable.where(taken != 0, 1.0))


@pytest.mark.parametrize(("x", "y"), [
    (torch.randn(3, 4), torch.randn(3, 4)),
    (torch.randn(3, 4), torch.randn(4)),
    (torch.randn(3, 4).bfloat16(), torch.randn(3, 4).bfloat16()),
    (torch.randn(3, 4), torch.randn(3, 4, dtype=torch.float64)),
    (torch.randn(3, 4).t(), torch.randn(4, 3)),
    (torch.randn(4, dtype=torch.complex64), torch.randn(4, dtype=torch.complex64)),
])  # fmt: skip
def test_dot_is_the_sum_of_products(x: Tensor, y: Tensor) -> None:
    found = dot(x, y)
    assert found.ndim == 0 and found.dtype in (torch.float32, torch.float64)
    products = (x.to(torch.complex128).conj() * y.to(torch.complex128)).real
    assert (found.double() - products.sum()).abs() <= 1e-6 * products.abs().sum()


def test_products_of_strided_memory() -> None:
    """Torch takes another way for them; ours is to give the same."""
    layer = nn.Linear(4, 3).double()
    op, a = Dense(layer.weight.detach(), layer.bias.detach()), torch.randn(5, 2, 4, dtype=torch.float64).transpose(0, 1)
    s = torch.randn(5, 2, 3, dtype=torch.float64).transpose(0, 1)
    assert_close(op.apply(a, op.weight, op.bias), layer(a).detach(), rtol=1e-12)
    assert_close(op.transpose(s, op.weight, a), torch.einsum("nto,oi->nti", s, op.weight), rtol=1e-12)


#: Channels in and out, kernel, stride, padding, dilation; whether float64 and bfloat16 take the product.
SHAPES = {
    "stem": ((3, 4, 7, 2, 3, 1), True, False),
    "colours": ((3, 5, 3, 1, 1, 1), True, False),
    "pointwise": ((5, 4, 1, 1, 0, 1), True, False),
    "shortcut": ((5, 4, 1, 2, 0, 1), True, True),
    "padded shortcut": ((5, 4, 1, 3, 1, 1), True, True),
    "patches": ((6, 4, 2, 2, 0, 1), True, True),
    "padded patches": ((6, 4, 4, 4, 2, 1), True, True),
    "dilated": ((6, 4, 2, 3, 1, 2), True, True),
    "overlapping": ((6, 4, 3, 2, 1, 1), False, False),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", SHAPES)
def test_transposed_convolution_is_torchs(case: str, dtype: torch.dtype) -> None:
    (inputs, outputs, kernel, stride, padding, dilation), full, half = SHAPES[case]
    w = torch.randn(outputs, inputs, kernel, kernel, dtype=torch.float64).to(dtype)
    leaf = torch.zeros(2, inputs, 11, 9, dtype=torch.float64, requires_grad=True)
    z = torch.nn.functional.conv2d(leaf, w.double(), None, stride, padding, dilation)
    s = torch.randn(z.shape, dtype=torch.float64).to(dtype)
    (expected,) = torch.autograd.grad(z, leaf, s.double())
    op = Conv(w, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], 1)
    assert op._by_product(s) == (full if dtype == torch.float64 else half)
    a = torch.empty(leaf.shape, dtype=dtype, device="meta")
    rtol = 1e-12 if dtype == torch.float64 else 2e-2
    assert_close(op.transpose(s, w, a).double(), expected, rtol=rtol)
    assert_close(op.transpose(s[0], w, a[0]).double(), expected[0], rtol=rtol)
