"""Where one token's output is explained, the last layers leave out the tokens that no relevance came to: the same
relevance and the same books as when every one is passed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from relprop import numerics
from relprop.explain.forward import Request
from relprop.ops import attention, maps
from relprop.units import Dimensions
from tests.support.compare import assert_close
from tests.support.networks import ready

TOKENS, WIDTH = 70, 8


class Layer(nn.Module):
    """Attention and feed-forward layer, each on a residual stream."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        inner = WIDTH // 2 if form == "grouped" else WIDTH
        self.q, self.o = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = nn.Linear(WIDTH, inner), nn.Linear(WIDTH, inner, bias=False)
        self.mask = nn.Linear(WIDTH, TOKENS)
        self.up, self.gate, self.down = nn.Linear(WIDTH, 12), nn.Linear(WIDTH, 12, bias=False), nn.Linear(12, WIDTH)
        self.before, self.norm = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.hidden = torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(3)) < 0.3

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        if self.form == "grouped":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if self.form in ("boolean mask", "nothing seen"):
            seen = ~self.hidden
            if self.form == "nothing seen":
                seen[-1] = seen[0] = False
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        if self.form == "added mask":
            added = torch.zeros(TOKENS, TOKENS, dtype=q.dtype).masked_fill(self.hidden, -torch.inf)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=0.3)
        if self.form == "mask of the input":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(x).unsqueeze(1))
        if self.form == "by hand":
            return torch.softmax(q @ k.mT / 2, -1) @ v
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.form == "causal")

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        q, k, v = (m(h).unflatten(-1, (-1, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        x = x + self.o(self.mixed(q, k, v, h).transpose(1, 2).flatten(2))
        h = self.norm(x)
        h = F.silu(self.gate(h)) * self.up(h)
        if self.form == "causal":  # as GPT-2 writes it
            return x + torch.addmm(self.down.bias, h.flatten(0, 1), self.down.weight.T).view(x.shape)
        return x + (h @ self.down.weight.T if self.form == "by hand" else self.down(h))


class Model(nn.Module):
    def __init__(self, form: str, token: int) -> None:
        super().__init__()
        self.layers, self.head, self.token = nn.ModuleList([Layer(form), Layer(form)]), nn.Linear(WIDTH, 3), token

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, self.token])


FORMS = ("plain", "causal", "grouped", "boolean mask", "nothing seen", "added mask", "mask of the input", "by hand")
PRESETS: dict[str, Any] = {
    "AttnLRP": rp.AttnLRP(),
    "AttnLRP, gamma": rp.AttnLRP(linear_gamma=0.25),
    "AttnLRP, epsilon": rp.AttnLRP(epsilon=1e-3),
    "AttnLRP, bias shared": rp.AttnLRP(epsilon=1e-3, bias="distribute"),
    "CPLRP": rp.CPLRP(),
    "z-plus": [(rp.Kind("linear"), rp.ZPlus())],
    "flat": [(rp.Kind("linear"), rp.Flat())],
    "z-box of every item": [(rp.Name("layers.*.up"), rp.ZBox(torch.full((2, TOKENS, 1), -90.0), 90.0))],
    "stabiliser of all rows": [(rp.Kind("linear"), rp.Epsilon(rp.Stabilizer(1e-2, norm_scale=True)))],
    "gradient": rp.Composite(rp.Gradient()),
}


class Looks:
    """Counts what was found to be few."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, blind: bool = False) -> None:
        self.found, self.blind = [0, 0], blind
        for i, module in enumerate((maps, attention)):
            monkeypatch.setattr(module, "occupied", lambda g, dim, i=i: self(g, dim, i))

    def __call__(self, g: Tensor, dim: int, i: int) -> Tensor | None:
        rows = None if self.blind else numerics.occupied(g, dim)
        self.found[i] += rows is not None
        return rows


#: These put relevance on entries that are zero, as the output of a query is that sees no key.
ON_ZEROS = ("AttnLRP, bias shared", "flat", "z-box of every item")


@pytest.mark.parametrize("token", [0, -1])
@pytest.mark.parametrize(
    ("form", "preset"), [(f, p) for f in FORMS for p in PRESETS if not (f == "nothing seen" and p in ON_ZEROS)]
)
def test_the_same_as_of_all_rows(form: str, preset: str, token: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ready(Model(form, token)), torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    lrp = rp.LRP(model, PRESETS[preset])

    places = ["layers.1.o", "layers.1.o:in", "layers.1.q", "layers.0"]

    def explained(audit: Any) -> list[rp.Explanation]:
        through = {"layers.0": Dimensions([0, 2, 5])}
        return [
            lrp.explain(x, target=1, audit=audit, layers=places),
            *lrp.explain(x, targets=[0, 2], audit=audit),
            lrp.explain(x, target=1, audit=audit, conditions=through),
        ]

    for audit in ("total", "sites"):
        with monkeypatch.context() as patch:
            looks = Looks(patch)
            found = explained(audit)
        with monkeypatch.context() as patch:
            Looks(patch, blind=True)
            expected = explained(audit)
        for one, other in zip(found, expected, strict=True):
            assert_close(one.relevance, other.relevance, 1e-9)
            assert one.layers.keys() == other.layers.keys()
            for place, there in one.layers.items():
                torch.testing.assert_close(there, other.layers[place], rtol=1e-9, atol=1e-12 * one.audit.scale)
            assert dict(one.audit.rows()) == pytest.approx(dict(other.audit.rows()), abs=1e-9 * one.audit.scale)
            assert one.audit.books.keys() == other.audit.books.keys()
        by_row = preset != "stabiliser of all rows"
        maps_left = 4 - (preset in ("CPLRP", "z-box of every item"))  # the gate gets nothing; or `up` is not looked at
        assert looks.found[0] >= 3 * maps_left * by_row, "gate, up, down, the attention's output of the last layer"
        assert looks.found[1] >= 3 * (form != "by hand"), "the last layer's attention"


@torch.no_grad()
def test_rows_that_are_occupied() -> None:
    g = torch.zeros(3, 100, 4)
    assert numerics.occupied(g, 1) is None, "nothing is no row"
    g[1, 7], g[2, 50, 3] = float("nan"), 1e-40
    assert numerics.occupied(g, 1).tolist() == [7, 50]
    assert numerics.occupied(g.flatten(0, 1), 0).tolist() == [107, 250]
    assert numerics.occupied(g.transpose(0, 1), 0).tolist() == [7, 50]
    g[0, :40] = 1.0
    assert numerics.occupied(g, 1) is None, "too many"
    assert numerics.occupied(torch.zeros(numerics.MANY - 1, 4).index_fill(0, torch.tensor([3]), 1.0), 0) is None


class Everywhere(nn.Module):
    """The outputs of all tokens, so that each target is about other ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList([Layer("causal"), Layer("plain")]), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.mark.parametrize("preset", ["AttnLRP", "AttnLRP, gamma", "CPLRP"])
def test_one_forward_for_few_and_for_all(preset: str) -> None:
    model, x = ready(Everywhere()), torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    every = torch.ones(2, TOKENS, 3, dtype=torch.bool)
    targets = [(0, 1), every, (-1, 1), (slice(3, 9), 2), every]
    lrp = rp.LRP(model, PRESETS[preset])
    for target, found in zip(targets, lrp.explain(x, targets=targets), strict=True):
        assert_close(found.relevance, lrp.explain(x, target=target).relevance, 1e-9)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rule", [rp.Zero(), rp.Epsilon(1e-3), rp.Gamma(0.25)], ids=str)
def test_below_a_relu(rule: rp.Rule, inplace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready(nn.Sequential(nn.Linear(WIDTH, 9), nn.ReLU(inplace), nn.Linear(9, 4)))
    x, lrp = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64), rp.LRP(model, rule)
    alone = lrp.explain(x[:, 5], target=1).relevance  # by torch's own gradient, where that will do
    few = [lrp.explain(x, target=(5, 1), audit=audit).relevance for audit in ("total", "sites")]
    Looks(monkeypatch, blind=True)
    every = [lrp.explain(x, target=(5, 1), audit=audit).relevance for audit in ("total", "sites")]
    for found in (*few, *every):
        assert_close(found[:, 5], alone, 1e-9)
        assert found.count_nonzero() == found[:, 5].count_nonzero()


@pytest.mark.parametrize("rule", [rp.Zero(), rp.Gradient(), rp.Epsilon(1e-3)], ids=str)
def test_nothing_is_kept_for_it(rule: rp.Rule) -> None:
    model, x = ready(nn.Sequential(nn.Linear(WIDTH, 9), nn.Linear(9, 4))), torch.randn(2, TOKENS, WIDTH).double()
    forward = rp.LRP(model, rule).recorded(Request(((0, 1),), "value"), (x,), {})
    kept = forward.recorder.boxes.size(besides=model.parameters())
    assert kept == (0 if rule != rp.Epsilon(1e-3) else 2 * TOKENS * (9 + 4) * 8)


def test_the_relevance_of_many_rows_has_a_derivative() -> None:
    model = ready(torch.nn.Sequential(torch.nn.Linear(WIDTH, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)))
    x = torch.randn(2, 70, WIDTH, dtype=torch.float64)
    lrp = rp.LRP(model, rp.AttnLRP())
    plain, found = (lrp.explain(x, target=(5, 1), create_graph=recorded) for recorded in (False, True))
    assert_close(found.relevance.detach(), plain.relevance, 1e-12)
    found.relevance.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in (model[0].weight, model[2].weight))


def test_maps_of_many_rows_have_books_of_their_own() -> None:
    model = ready(torch.nn.Sequential(torch.nn.Linear(WIDTH, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)))
    x = torch.randn(2, 70, WIDTH, dtype=torch.float64)
    found = rp.LRP(model, rp.AttnLRP()).explain(x, target=lambda y: y.sum((1, 2)), audit="sites")
    maps_of = [s for s in found.plan.sites if s.kind == "linear"]
    assert len(maps_of) == 2
    for site in maps_of:
        book = found.audit.books[site.index]
        assert book["in"] == pytest.approx(book["out"] + book["bias"], abs=1e-12 * found.audit.scale) and book["bias"]
