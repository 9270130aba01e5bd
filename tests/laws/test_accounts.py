"""Where accounts hang, and what is asked only once: the books stay the same."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from relprop.errors import UnknownOperationError
from relprop.numerics import dot
from relprop.ops.attention import Attention
from relprop.selectors import Name, Selector
from relprop.site import Site


class Written(nn.Module):
    """A dense layer on rows of rows, whose result is a view, and what happens to it then."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.in_place = nn.Linear(4, 6), nn.Linear(6, 3), in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.in_place:
            y.relu_()
            y[..., 0].mul_(2.0)
        else:
            y = F.relu(y)
            y = y * torch.tensor([2.0, 1, 1, 1, 1, 1], dtype=y.dtype)
        return self.last(y).sum(1)


@pytest.mark.parametrize("composite", [rp.AttnLRP(), rp.UniformEpsilon(), rp.EpsilonPlus()], ids=str)
def test_a_write_into_a_view_loses_no_account(composite: rp.Composite) -> None:
    x = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    written, plain = (rp.LRP(Written(i).double(), composite).explain(x, target=1) for i in (True, False))
    torch.testing.assert_close(written.relevance, plain.relevance, rtol=1e-10, atol=1e-12)
    assert written.audit.bias == pytest.approx(plain.audit.bias, rel=1e-9)
    assert abs(plain.audit.bias) > 0.01
    assert written.audit.unexplained_share < 1e-12


class Attending(nn.Module):
    """Attention whose operands depend on the input, or not."""

    def __init__(self, moving: str, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.moving, self.groups = moving, groups
        self.q, self.out = nn.Linear(16, 16), nn.Linear(16, 3)
        self.k, self.v = nn.Linear(16, 16 // groups), nn.Linear(16, 16 // groups)
        self.register_buffer("memory", torch.randn(1, 5, 16))

    def forward(self, x: Tensor) -> Tensor:
        def heads(role: str, layer: nn.Linear) -> Tensor:
            y: Tensor = layer(x if role in self.moving else self.memory)
            return y.unflatten(-1, (-1, 4)).transpose(1, 2)

        mask = x[:, None, :, :1] * x[:, None, :, 1] if "m" in self.moving else None
        y = F.scaled_dot_product_attention(
            heads("q", self.q), heads("k", self.k), heads("v", self.v), attn_mask=mask, enable_gqa=self.groups > 1
        )
        found: Tensor = self.out(y.transpose(1, 2).flatten(2)).sum(1)
        return found


MOVING = ["qkv", "qkvm", "qv", "kv", "v", "qk", "q"]
CASES = [(moving, rp.AttnLRP()) for moving in MOVING] + [(moving, rp.CPLRP()) for moving in MOVING if "v" in moving]


@pytest.mark.parametrize(("moving", "composite"), CASES, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_books_of_attention_balance_at_its_site(moving: str, groups: int, composite: rp.Composite) -> None:
    x = torch.randn(1, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = Attending(moving, groups).double()
    whole, sites = (rp.LRP(model, composite).explain(x, target=1, audit=a) for a in ("total", "sites"))
    torch.testing.assert_close(whole.relevance, sites.relevance)
    assert whole.audit.excess == pytest.approx(sites.audit.excess, abs=1e-12)
    assert whole.audit.unexplained_share < 1e-12
    assert all(abs(lost) < 1e-12 * sites.audit.scale for _, lost in sites.audit.sites)


def test_a_kernel_may_return_a_part_of_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's does on a GPU in half precision, where a head's width is no multiple of 8."""
    x = torch.randn(1, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lrp = rp.LRP(Attending("qkv").double(), rp.AttnLRP())
    whole = lrp.explain(x, target=1)
    kernel = Attention.kernel

    def padded(op: Attention, changed: dict[str, Tensor]) -> Tensor:
        inputs: dict[str, Any] = {**op.inputs, **changed}
        width = inputs["q"].shape[-1]
        op.options = {**op.options, "scale": width**-0.5}
        return kernel(op, {role: F.pad(inputs[role], (0, 4)) for role in "qkv"})[..., :width]

    monkeypatch.setattr(Attention, "kernel", padded)
    part = lrp.explain(x, target=1)
    torch.testing.assert_close(part.relevance, whole.relevance)
    assert part.audit.excess == pytest.approx(whole.audit.excess)
    assert part.audit.unexplained_share < 1e-12


class Twice(nn.Module):
    """One layer, called two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.layer(x))
        return y


class Even(Selector):
    """Every other site: what a site is does not tell."""

    def matches(self, site: Site) -> bool:
        return site.kind == "linear" and site.index % 2 == 0


def test_a_selector_of_ones_own_is_asked_for_every_site() -> None:
    plan = rp.LRP(Twice(), [(Even(), rp.ZPlus())]).explain(torch.randn(1, 4), target=0).plan
    assert [type(d.rule).__name__ for _, d in plan] == ["ZPlus", "Zero"]


def test_what_another_thread_computes_is_never_taken_for_ours() -> None:
    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            found: list[Tensor] = []

            def work() -> None:
                for _ in range(5000):  # its nodes' numbers pass by those of this thread
                    found[:] = [x.exp()]

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            y: Tensor = self.layer(found[0].contiguous() * 2)
            return y

    with pytest.raises(UnknownOperationError, match="Exp"):
        rp.LRP(Elsewhere(), rp.UniformEpsilon()).explain(torch.randn(1, 4), target=0)


@pytest.mark.parametrize("orders", [((0, 1, 2), (0, 1, 2)), ((0, 2, 1), (0, 2, 1)), ((2, 0, 1), (1, 0, 2))])
def test_sums_of_products_of_strided_memory(orders: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    values = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    x, y = (values[i].permute(order).contiguous().permute([order.index(d) for d in range(3)])
            for i, order in enumerate(orders))  # fmt: skip
    assert dot(x, y).item() == pytest.approx((values[0] * values[1]).sum().item(), rel=1e-12)
    assert dot(x[:, ::2], y[:, ::2]).item() == pytest.approx((values[0] * values[1])[:, ::2].sum().item(), rel=1e-12)
    assert dot(x[:, :1].expand(-1, 4, -1), y[:, :1].expand(-1, 4, -1)).item() == pytest.approx(
        4 * (values[0] * values[1])[:, 0].sum().item(), rel=1e-12
    )


def test_results_can_be_copied_and_kept() -> None:
    lrp = rp.LRP(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), rp.EpsilonPlus())
    explanation = lrp.explain(torch.randn(2, 4), target=0)
    for again in (copy.deepcopy(explanation), pickle.loads(pickle.dumps(explanation))):
        torch.testing.assert_close(again.relevance, explanation.relevance)
        assert str(again.plan) == str(explanation.plan)
    assert pickle.loads(pickle.dumps(lrp.composite)) == lrp.composite


class Second(Name):
    """The second call in a module: another question than that of the selector it derives from."""

    def matches(self, site: Site) -> bool:
        return super().matches(site) and site.call == 1


def test_a_selector_derived_from_another_is_asked_for_every_site() -> None:
    lrp = rp.LRP(Twice(), [(Second("layer"), rp.Gamma(1.0)), (rp.All(), rp.Epsilon())])
    lrp.explain(torch.randn(1, 4), target=0)
    plan = lrp.explain(torch.randn(1, 4), target=0).plan
    assert [type(d.rule).__name__ for _, d in plan] == ["Epsilon", "Gamma"]


@dataclass(frozen=True)
class Leaky(rp.Rule):
    """A rule of one's own that keeps the input alone, and looks at its sign."""

    home = ("elementwise",)

    def keeps(self, op: object) -> tuple[bool, bool]:
        return True, False

    def elementwise(self, op: object, x: Tensor, y: Tensor | None, g: Tensor, books: object) -> Tensor:
        return torch.where(x > 0, g, 0.1 * g)


class LeakyIdentity(rp.Identity):
    """The same, derived from a rule that reads no more than a quotient."""

    elementwise = Leaky.elementwise  # type: ignore[assignment]


@pytest.mark.parametrize("rule", [Leaky(), LeakyIdentity()], ids=str)
def test_a_rule_of_ones_own_is_given_the_input(rule: rp.Rule) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 6).double(), nn.Linear(6, 2).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    found = (
        rp.LRP(nn.Sequential(first, nn.GELU(), last), [(rp.Kind("gelu"), rule)])
        .explain(x, target=1, unknown="gradient")
        .relevance
    )
    g = torch.where(first(x) > 0, 1.0, 0.1) * last.weight[1]
    torch.testing.assert_close(found, (x * (g @ first.weight)).detach())


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 1, 1), nn.Linear(4, 1)], ids=["conv", "linear"])
@pytest.mark.parametrize("composite", [rp.UniformEpsilon(), rp.AttnLRP()], ids=str)
def test_sums_of_half_precision_have_the_range_of_single(layer: nn.Module, composite: rp.Composite) -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer.half()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return y.float().flatten(1).sum(1, keepdim=True)

    nn.init.ones_(layer.weight)  # type: ignore[arg-type]
    nn.init.ones_(layer.bias)  # type: ignore[arg-type]
    shape = (1, 1, 300, 300) if isinstance(layer, nn.Conv2d) else (1, 90000, 4)
    audit = rp.LRP(Summed(), composite).explain(torch.rand(shape).half(), target=0).audit
    assert audit.bias == pytest.approx(90000, rel=1e-3)


@pytest.mark.parametrize("product", [lambda x, w: F.linear(x, w), lambda x, w: x @ w.mT], ids=["linear", "matmul"])
def test_epsilon_of_complex_weights(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return product(x.to(torch.complex128), self.weight).abs()

    x = torch.randn(2, 4, dtype=torch.float64)
    found = rp.LRP(Complex(), rp.Composite([(rp.Kind("linear"), rp.Epsilon(1e-9))])).explain(x, target=1)
    plain = rp.LRP(Complex(), rp.Composite()).explain(x, target=1)
    torch.testing.assert_close(found.relevance, plain.relevance, rtol=1e-6, atol=1e-8)
