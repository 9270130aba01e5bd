"""Attention in which some queries see no key at all, as padding makes them.

Their softmax is NaN and the model takes that out; fused kernels give zero there. The oracle has no NaN: such queries
see every key, and their weights are multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw, whole
from tests.architectures.detached import reference
from tests.support.compare import assert_close

SEEN = torch.ones(2, 5, 5, dtype=torch.bool).tril()
SEEN[0, 0] = SEEN[1, 2] = SEEN[1, 4] = False


def put(p: Tensor) -> Tensor:
    p[p.isnan()] = 0.0
    return p


def by_hand(scores: Tensor) -> Tensor:
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return (e / e.sum(-1, keepdim=True)).nan_to_num()


#: How the NaN are taken out.
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "nan_to_num": lambda s: s.softmax(-1).nan_to_num(),
    "nan_to_num in place": lambda s: torch.softmax(s, -1).nan_to_num_(0.0),
    "masked_fill": lambda s: s.softmax(-1).masked_fill(~SEEN, 0.0),
    "where": lambda s: torch.where(SEEN, F.softmax(s, dim=-1), 0.0),
    "after dropout": lambda s: F.dropout(s.softmax(-1), 0.1, training=False).nan_to_num(0.0),
    "written over": lambda s: put(s.softmax(-1)),
    "by hand": by_hand,
}


class Masked(nn.Module):
    """One head; no form: the fused kernel. `added`: the mask is minus infinity in a sum."""

    def __init__(self, form: Callable[[Tensor], Tensor] | None, added: bool) -> None:
        super().__init__()
        self.form, self.added = form, added

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        hidden = torch.zeros(SEEN.shape, dtype=q.dtype).masked_fill(~SEEN, -torch.inf)
        if self.form is None:
            mask = hidden if self.added else SEEN
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], mask[:, None])[:, 0]
        scores = q @ k.mT * q.shape[-1] ** -0.5
        return self.form(scores + hidden if self.added else scores.masked_fill(~SEEN, -torch.inf)) @ v


def oracle(composite: str) -> Callable[..., Tensor]:
    some = SEEN.any(-1, keepdim=True)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        scores = scores / 2 + scores.detach() / 2
        seen = scores.masked_fill(~(SEEN | ~some), -torch.inf)
        y = seen.softmax(-1)
        if composite == "CPLRP":
            return (y.detach() * some) @ v
        if composite == "identity":
            y = scores * (y / scores).detach()  # what is masked has no weight
        y = y * some @ v
        return y / 2 + y.detach() / 2

    return attend


COMPOSITES = {
    "AttnLRP": rp.AttnLRP(),
    "CPLRP": rp.CPLRP(),
    "identity": rp.Composite([(rp.Kind("softmax"), rp.Identity())]),
}


#: A fused kernel has no site for its softmax.
CASES = [(f, c) for f in [*FORMS, "fused"] for c in COMPOSITES if (f, c) != ("fused", "identity")]


@pytest.mark.parametrize("added", [True, False], ids=["added", "filled"])
@pytest.mark.parametrize(("form", "composite"), CASES)
def test_rows_that_see_nothing(form: str, composite: str, added: bool) -> None:
    args = [draw(2, 5, 4, seed=s) for s in (1, 2, 3)]
    relevance = draw(2, 5, 4, seed=9)
    relevance[0, 0] = relevance[1, 2] = relevance[1, 4] = 0.0  # outputs of zero, which have none
    live = torch.where(relevance == 0, 1.0, relevance)
    model = Masked(FORMS.get(form), added)
    value, wanted = reference(lambda *a: oracle(composite)(*a) + (relevance == 0), args, whole, live)
    e = rp.LRP(model, COMPOSITES[composite]).explain(*args, target=relevance)
    assert_close(e.output, value - (relevance == 0).double(), 1e-12)
    for found, expected, name in zip(e.relevance, wanted, "qkv", strict=True):
        assert_close(found, expected, 1e-10, name)
    assert e.audit.unexplained_share < 1e-12
    sites = rp.LRP(model, COMPOSITES[composite]).explain(*args, target=relevance, audit="sites")
    assert sites.audit.sites and all(abs(lost) < 1e-12 for _, lost in sites.audit.sites)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["nan_to_num", "fused"])
def test_every_precision(form: str, dtype: torch.dtype) -> None:
    args = [draw(2, 5, 4, seed=s) for s in (1, 2, 3)]
    lrp = rp.LRP(Masked(FORMS.get(form), added=False), rp.AttnLRP())
    wanted = lrp.explain(*args, target=whole).relevance
    for found, expected in zip(lrp.explain(*(a.to(dtype) for a in args), target=whole).relevance, wanted, strict=True):
        assert_close(found.double(), expected, 1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("form", [*FORMS, "fused"])
def test_differentiable(form: str) -> None:
    args = [draw(2, 5, 4, seed=s) for s in (1, 2, 3)]
    lrp = rp.LRP(Masked(FORMS.get(form), added=False), rp.AttnLRP())
    plain, graph = (lrp.explain(*args, target=whole, create_graph=c).relevance for c in (False, True))
    for found, expected in zip(graph, plain, strict=True):
        assert_close(found.detach(), expected, 1e-12)


def test_logarithms() -> None:
    """Of a row that is masked whole the model takes another number: it is a constant."""
    seen = SEEN.clone()
    seen[1, 0] = True  # the logarithm of one entry alone is zero, which has no relevance

    class Logarithms(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log_softmax(x.masked_fill(~seen, -torch.inf), -1).nan_to_num(-2.0, neginf=-3.0)

    x, relevance = draw(2, 5, 5), draw(2, 5, 5, seed=2)
    given = x.clone().requires_grad_()
    y = torch.log_softmax(given.masked_fill(~seen, -torch.inf), -1)
    (slope,) = torch.autograd.grad(y[seen], given, (relevance / y.detach())[seen])
    e = rp.LRP(Logarithms(), rp.AttnLRP()).explain(x, target=relevance)
    assert_close(e.relevance, x * slope, 1e-12)
    assert e.audit.constants == pytest.approx(float(relevance[~seen].sum()), abs=1e-12)
    assert e.audit.unexplained_share < 1e-12


def test_nan_that_reaches_the_output_is_refused() -> None:
    with pytest.raises(rp.InputError, match="the model's output holds NaN or infinity"):
        rp.LRP(Masked(lambda s: s.softmax(-1), added=False), rp.AttnLRP()).explain(*[draw(2, 5, 4)] * 3, target=whole)
