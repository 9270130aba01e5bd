"""A graph's attention, normalised over the edges that end in a node, is the softmax that it is.

On a graph whose edges are the entries of a dense matrix of scores, relevance is that of `torch.softmax` on the matrix,
with minus infinity where there is no edge.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.ops.normalised import Segments
from relprop.ops.softmax import Softmax
from tests.support.compare import assert_close
from tests.support.networks import ready

NODES, WIDTH, HEADS = 5, 6, 2
Form = Callable[[Tensor, Tensor], Tensor]


def edges(complete: bool) -> Tensor:
    """Targets and sources in no order; every node has an edge to itself."""
    generator = torch.Generator().manual_seed(4)
    some = torch.rand(NODES, NODES, generator=generator) < 0.5
    pairs = (some | torch.eye(NODES, dtype=torch.bool) | complete).nonzero()
    return pairs[torch.randperm(len(pairs), generator=generator)].T.contiguous()


def zeros(e: Tensor) -> Tensor:
    return e.new_zeros(NODES, *e.shape[1:])


def wide(dst: Tensor, e: Tensor) -> Tensor:
    return dst.view(-1, *[1] * (e.ndim - 1)).expand_as(e)


def greatest(scores: Tensor, dst: Tensor) -> Tensor:
    return zeros(scores).scatter_reduce(0, wide(dst, scores), scores, "amax", include_self=False)


def scatter_add(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).scatter_add(0, wide(dst, e), e)[dst]


def scatter_add_(scores: Tensor, dst: Tensor) -> Tensor:
    e = torch.exp(scores)
    z = zeros(e)
    z.scatter_add_(0, wide(dst, e), e)
    return torch.div(e, z.index_select(0, dst))


def index_add(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_add(0, dst, e).gather(0, wide(dst, e))


def index_add_(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    z = zeros(e).index_add_(dim=0, index=dst, source=e)
    return e / torch.take_along_dim(z, wide(dst, e), 0)


def scatter_reduce(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / (zeros(e).scatter_reduce(0, wide(dst, e).clone(), e, "sum")[dst, ...] + 1e-16)


def as_in_pyg(scores: Tensor, dst: Tensor) -> Tensor:
    shift = zeros(scores).scatter_reduce_(0, wide(dst, scores), scores.detach(), "amax", include_self=False)
    e = (scores - shift.index_select(0, dst)).exp()
    z = zeros(e).scatter_reduce_(0, wide(dst, e), e, "sum") + 1e-16
    return e / z.index_select(0, dst)


def shifted(scores: Tensor, dst: Tensor) -> Tensor:
    e = (scores - greatest(scores, dst)[dst]).exp()
    return e / zeros(e).index_add(0, dst, e)[dst].clamp_min(1e-12)


def shifted_by_one(scores: Tensor, dst: Tensor) -> Tensor:
    e = (scores - scores.max()).exp()
    return e / zeros(e).index_add(0, dst, e).clamp(min=1e-12)[dst]


def shifted_by_one_detached(scores: Tensor, dst: Tensor) -> Tensor:
    e = torch.exp(scores - scores.max().detach())
    return e / zeros(e).index_add(0, dst, e)[dst]


def index_put(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_put((dst,), e, accumulate=True)[dst]


def index_put_(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    z = zeros(e)
    z.index_put_((dst,), e, True)
    return e / z[dst]


def one_over_gathered(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e * (1 / zeros(e).index_add(0, dst, e))[dst]


def reciprocal_gathered(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return (zeros(e).index_add(0, dst, e) + 1e-16).reciprocal().index_select(0, dst) * e


def gathered_power(scores: Tensor, dst: Tensor) -> Tensor:
    e = (scores - greatest(scores, dst)[dst]).exp()
    return e.mul_(zeros(e).index_add(0, dst, e)[dst] ** -1)


def in_place(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.clone().exp_()
    return e.div_(zeros(e).index_add(0, dst, e)[dst])


def weighed(scores: Tensor, dst: Tensor) -> Tensor:
    """Of some weights that are one, as a model may have for its edges."""
    e = scores.exp() * torch.ones(len(dst), dtype=scores.dtype).view(-1, *[1] * (scores.ndim - 1))
    return e / zeros(e).index_add(0, dst, e)[dst]


def transposed(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.unsqueeze(0).exp() if scores.ndim == 1 else scores.T.exp()
    z = e.new_zeros(e.shape[0], NODES).index_add(1, dst, e)
    return (e / z[:, dst]).T.reshape(scores.shape)


FORMS = [scatter_add, scatter_add_, index_add, index_add_, scatter_reduce, as_in_pyg, shifted, shifted_by_one,
         shifted_by_one_detached, index_put, index_put_, one_over_gathered, reciprocal_gathered, gathered_power,
         in_place, weighed, transposed]  # fmt: skip
COMPOSITES = {
    "AttnLRP": rp.AttnLRP(),
    "CPLRP": rp.CPLRP(),
    "identity": rp.Composite([(rp.Kind("softmax"), rp.Identity())]),
    "ResLRP": rp.ResLRP(),
}


class Attention(nn.Module):
    """One layer of attention over a graph with `heads` heads; no form: densely, by `torch.softmax`."""

    def __init__(self, form: Form | None, pairs: Tensor, heads: int = HEADS) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.form, self.heads = form, heads
        self.register_buffer("pairs", pairs)

    def forward(self, x: Tensor) -> Tensor:
        dst, src = self.pairs
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)) for m in (self.query, self.key, self.value))
        scores = (q[dst] * k[src]).sum(-1)
        if self.form is None:
            dense = torch.full((NODES, NODES, self.heads), -torch.inf, dtype=x.dtype)
            dense = dense.index_put((dst, src), scores)
            return torch.einsum("ijh,jhd->ihd", dense.softmax(1), v).flatten(1)
        if self.heads == 1:
            weights = self.form(scores.squeeze(-1), dst).unsqueeze(-1)
        else:
            weights = self.form(scores, dst)
        return x.new_zeros(NODES, WIDTH).index_add(0, dst, (weights.unsqueeze(-1) * v[src]).flatten(1))


def pair(form: Form | None, pairs: Tensor, heads: int = HEADS) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(7)
    graph = ready(Attention(form, pairs, heads))
    dense = ready(Attention(None, pairs, heads))
    dense.load_state_dict(graph.state_dict())
    return graph, dense


def explained(model: nn.Module, x: Tensor, relevance: Tensor, composite: object) -> rp.Explanation:
    return rp.LRP(model, composite).explain(x, target=relevance)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(NODES, WIDTH, dtype=torch.float64)


@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "sparse"])
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_as_dense_attention(form: Form, composite: str, complete: bool, heads: int, x: Tensor) -> None:
    graph, dense = pair(form, edges(complete), heads)
    relevance = torch.randn(NODES, WIDTH, dtype=torch.float64)
    assert_close(graph(x).detach(), dense(x).detach(), 1e-12, "the two are one function")
    found, wanted = (explained(m, x, relevance, COMPOSITES[composite]) for m in (graph, dense))
    assert_close(found.relevance, wanted.relevance, 1e-10)
    assert_close(torch.tensor(found.audit.excess), torch.tensor(wanted.audit.excess), 1e-10)
    assert abs(found.audit.unexplained) < 1e-9


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_weights_are_constant_under_cp(form: Form, x: Tensor) -> None:
    pairs = edges(False)
    graph, _ = pair(form, pairs)
    weights: list[Tensor] = []

    def once(scores: Tensor, dst: Tensor) -> Tensor:
        if not weights:
            weights.append(form(scores, dst).detach())
        return weights[0]

    fixed = Attention(once, pairs).double()
    fixed.load_state_dict(graph.state_dict())
    fixed(x)
    relevance = torch.randn(NODES, WIDTH, dtype=torch.float64)
    found, wanted = (explained(m, x, relevance, rp.CPLRP()).relevance for m in (graph, fixed))
    assert_close(found, wanted, 1e-12)


def test_the_default_sees_attention(x: Tensor) -> None:
    graph, _ = pair(as_in_pyg, edges(False))
    plan = rp.LRP(graph).plan(x)
    assert [site.kind for site in plan.sites].count("softmax") == 1
    assert "preset AttnLRP() chosen: attention runs in the model" in plan.notes


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("form", [shifted, in_place, one_over_gathered, index_put_, weighed], ids=lambda f: f.__name__)
def test_differentiable(form: Form, create_graph: bool, x: Tensor) -> None:
    graph, dense = pair(form, edges(False))
    relevance = torch.randn(NODES, WIDTH, dtype=torch.float64)
    found, wanted = (
        rp.LRP(m, rp.AttnLRP()).explain(x, target=relevance, create_graph=create_graph).relevance
        for m in (graph, dense)
    )
    assert_close(found.detach(), wanted.detach(), 1e-10)


@pytest.mark.parametrize("flat", [True, False], ids=["index along", "index of all"])
@pytest.mark.parametrize("dim", [0, 1])
def test_gradient(dim: int, flat: bool) -> None:
    """Against torch's own, segment by segment."""
    index = torch.tensor([2, 0, 2, 2, 0])  # nothing has 1
    x = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    columns = x if dim == 0 else x.T
    y = torch.empty_like(columns)
    for i in range(3):
        y[index == i] = columns[index == i].softmax(0)
    y = y if dim == 0 else y.T
    g = torch.randn(5, 5, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(y, x, g)
    made = Softmax(dim)
    whole = index.view(-1, 1) if dim == 0 else index.view(1, -1)
    made.segments = Segments(index if flat else whole.expand(5, 5), dim, 3)
    assert_close(made.gradient(g, y.detach()), wanted, 1e-12)


def other_index(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_add(0, dst, e)[(dst + 1) % NODES]


def other_sum(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_add(0, dst, (2 * scores).exp())[dst]


def product_between(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / (zeros(e).index_add(0, dst, e) * 2)[dst]


def product_before(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_add(0, dst, e * torch.arange(1.0, 1 + len(dst), dtype=e.dtype).view(-1, 1))[dst]


def more_than_exponentials(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / torch.ones_like(zeros(e)).index_add(0, dst, e)[dst]


def more_later(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    z = zeros(e).index_add(0, dst, e)
    z.index_add_(0, dst, e)
    return e / z[dst]


def times_a_factor(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_add(0, dst, e, alpha=2)[dst]


def bounded_far_up(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_add(0, dst, e)[dst].clamp_min(0.5)


def twice_gathered(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    z = zeros(e).index_add(0, dst, e)[dst]
    return e / z[torch.arange(len(dst) - 1, -1, -1)]


def exponentials_changed(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    z = zeros(e).index_add(0, dst, e)
    e.mul_(2.0)
    return e / z[dst]


def last_of_each(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_put((dst,), e)[dst]


def put_by_head(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    at = (dst[:, None].expand(-1, HEADS), torch.arange(HEADS).flip(0).expand(len(dst), -1))
    return e / zeros(e).index_put(at, e, accumulate=True)[dst]


def over_the_root(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e * zeros(e).index_add(0, dst, e)[dst].rsqrt()


def two_over_the_sum(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e * (2 / zeros(e).index_add(0, dst, e))[dst]


def other_reciprocal(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e * (1 / zeros(e).index_add(0, dst, e))[(dst + 1) % NODES]


def weights_of_the_sum_alone(scores: Tensor, dst: Tensor) -> Tensor:
    e = scores.exp()
    return e / zeros(e).index_add(0, dst, e * torch.linspace(1, 2, len(dst), dtype=e.dtype)[:, None])[dst]


def other_weights(scores: Tensor, dst: Tensor) -> Tensor:
    e, some = scores.exp(), torch.linspace(1, 2, len(dst), dtype=scores.dtype)[:, None]
    return e * some / zeros(e).index_add(0, dst, e * some.flip(0))[dst]


@pytest.mark.parametrize(
    "form",
    [other_index, other_sum, product_between, product_before, more_than_exponentials, more_later, times_a_factor,
     bounded_far_up, twice_gathered, exponentials_changed, last_of_each, put_by_head, over_the_root, two_over_the_sum,
     other_reciprocal, weights_of_the_sum_alone, other_weights],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_what_is_no_softmax(form: Form, x: Tensor) -> None:
    graph, _ = pair(form, edges(True))
    assert "softmax" not in {site.kind for site in rp.LRP(graph, rp.AttnLRP()).plan(x).sites}
    relevance = torch.randn(NODES, WIDTH, dtype=torch.float64)
    assert abs(explained(graph, x, relevance, rp.AttnLRP()).audit.unexplained) < 1e-9


def test_a_shift_that_differs_within_a_segment_counts(x: Tensor) -> None:
    """`softmax(s - c)` of another c for every edge is the softmax of the difference."""
    places = torch.arange(1.0, 1 + NODES**2, dtype=torch.float64).view(-1, 1) / 10

    def uneven(scores: Tensor, dst: Tensor) -> Tensor:
        e = (scores - places).exp()
        return e / zeros(e).index_add(0, dst, e)[dst]

    graph, _ = pair(uneven, edges(True))
    dense = ready(Attention(None, graph.pairs))
    dense.load_state_dict(graph.state_dict())
    dst, src = graph.pairs
    shift = torch.zeros(NODES, NODES, 1, dtype=torch.float64).index_put((dst, src), places)

    class Shifted(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (m(x).unflatten(-1, (HEADS, -1)) for m in (self.query, self.key, self.value))
            scores = (q[:, None] * k[None]).sum(-1) - shift
            return torch.einsum("ijh,jhd->ihd", scores.softmax(1), v).flatten(1)

    wanted_of = Shifted(None, graph.pairs).double()
    wanted_of.load_state_dict(graph.state_dict())
    relevance = torch.randn(NODES, WIDTH, dtype=torch.float64)
    for composite in COMPOSITES.values():
        found, wanted = (explained(m, x, relevance, composite).relevance for m in (graph, wanted_of))
        assert_close(found, wanted, 1e-10)


# -- along a dimension --


def divided(x: Tensor) -> Tensor:
    e = x.exp()
    return e / e.sum(-1, keepdim=True)


SEEN = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
PRIOR = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)


def hidden(x: Tensor) -> Tensor:
    return x.masked_fill(~SEEN, -torch.inf).softmax(-1)


def over_its_sum(e: Tensor) -> Tensor:
    return e / e.sum(-1, keepdim=True)


def in_place_whole(x: Tensor) -> Tensor:
    e = (x + 0.0).exp_()
    return e.div_(e.sum(-1, keepdim=True))


def in_place_of_a_part(x: Tensor) -> Tensor:
    e = torch.cat([x, x], -1)[:, :4].exp_()
    return e / e.sum(-1, keepdim=True)


def in_place_shifted(x: Tensor) -> Tensor:
    y = x * 1.0
    y -= y.amax(-1, keepdim=True)
    e = torch.exp_(y)
    e /= e.sum(-1, keepdim=True)
    return e


WRITTEN_OUT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "of a chain": (lambda x: divided(x.tanh()), lambda x: x.tanh().softmax(-1)),
    "of a chain, shifted": (
        lambda x: divided(x.tanh() - x.tanh().amax(-1, keepdim=True)),
        lambda x: x.tanh().softmax(-1),
    ),
    "dimension put back": (lambda x: x.exp() / x.exp().sum(-1)[:, None], lambda x: x.softmax(-1)),
    "dimension put back by name": (lambda x: x.exp() / x.exp().sum(-1).unsqueeze(-1), lambda x: x.softmax(-1)),
    "first dimension": (lambda x: x.exp() / x.exp().sum(0), lambda x: x.softmax(0)),
    "stabilised": (lambda x: x.exp() / (x.exp().sum(-1, keepdim=True) + 1e-12), lambda x: x.softmax(-1)),
    "over all": (lambda x: x.exp() / x.exp().sum(), lambda x: x.flatten().softmax(0).view_as(x)),
    "shifted": (lambda x: divided(x - x.amax(-1, keepdim=True)), lambda x: x.softmax(-1)),
    "shifted by a constant": (lambda x: divided(x - x.detach().amax(-1, keepdim=True)), lambda x: x.softmax(-1)),
    "shifted by a number": (lambda x: divided(x - 3.0), lambda x: x.softmax(-1)),
    "of its logarithm": (lambda x: x.log_softmax(-1).exp(), lambda x: x.softmax(-1)),
    "of its logarithm, in place": (lambda x: torch.log_softmax(x, 0).exp_(), lambda x: x.softmax(0)),
    "less the logarithm of the sum": (
        lambda x: torch.exp(x - x.logsumexp(-1, keepdim=True)),
        lambda x: x.softmax(-1),
    ),
    "less the logarithm of the sum over all": (
        lambda x: (x - torch.logsumexp(x, (0, 1), keepdim=True)).exp(),
        lambda x: x.flatten().softmax(0).view_as(x),
    ),
    "in place": (in_place_whole, lambda x: x.softmax(-1)),
    "in place, a part": (in_place_of_a_part, lambda x: x.softmax(-1)),
    "in place, shifted before": (
        lambda x: over_its_sum((x - x.amax(-1, keepdim=True)).exp_()),
        lambda x: x.softmax(-1),
    ),
    "in place, of a chain": (lambda x: over_its_sum(x.tanh().exp_()), lambda x: x.tanh().softmax(-1)),
    "by the reciprocal": (lambda x: x.exp() * x.exp().sum(-1, keepdim=True).reciprocal(), lambda x: x.softmax(-1)),
    "by one over": (lambda x: (1.0 / x.exp().sum(0)) * x.exp(), lambda x: x.softmax(0)),
    "by a power": (lambda x: x.exp() * x.exp().sum(-1)[:, None].pow(-1.0), lambda x: x.softmax(-1)),
    "times a mask": (lambda x: over_its_sum(x.exp() * SEEN), hidden),
    "times a mask, in place": (lambda x: over_its_sum(x.exp().mul_(SEEN)), hidden),
    "times a mask, stabilised": (
        lambda x: (e := x.exp() * SEEN.double()) / (e.sum(-1, keepdim=True) + 1e-13),
        hidden,
    ),
    "filled by a mask": (lambda x: over_its_sum(x.exp().masked_fill(~SEEN, 0.0)), hidden),
    "filled by a mask, in place": (lambda x: over_its_sum(x.exp().masked_fill_(~SEEN, 0)), hidden),
    "where a mask is": (lambda x: over_its_sum(torch.where(SEEN, x.exp(), 0.0)), hidden),
    "shifted, times a mask": (
        lambda x: over_its_sum((x - x.amax(-1, keepdim=True)).exp() * SEEN),
        hidden,
    ),
}


class Headed(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.value, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)) + self.value(x))


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_along_a_dimension(name: str, composite: str) -> None:
    first, second = (ready(Headed(function)) for function in WRITTEN_OUT[name])
    second.load_state_dict(first.state_dict())
    x, relevance = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    assert_close(first(x).detach(), second(x).detach(), 1e-11, "the two are one function")
    found, wanted = (explained(m, x, relevance, COMPOSITES[composite]).relevance for m in (first, second))
    assert_close(found, wanted, 1e-10)


@pytest.mark.parametrize("composite", [rp.AttnLRP(), rp.CPLRP()], ids=str)
def test_shifted_in_place(composite: rp.Composite) -> None:
    """What the scores were is gone, so the shift takes part; by the gradient it takes nothing."""
    first, second = ready(Headed(in_place_shifted)), ready(Headed(lambda x: x.softmax(-1)))
    second.load_state_dict(first.state_dict())
    x, relevance = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    found, wanted = (explained(m, x, relevance, composite) for m in (first, second))
    assert_close(found.relevance, wanted.relevance, 1e-10)
    assert abs(found.audit.unexplained) < 1e-10


@pytest.mark.parametrize("composite", [rp.AttnLRP(), rp.CPLRP()], ids=str)
def test_with_a_prior(composite: rp.Composite) -> None:
    """Constants times exponentials are logarithms added to the scores, and take their share there."""
    function = lambda x: over_its_sum(x.exp() * PRIOR)  # noqa: E731
    first, second = ready(Headed(function)), ready(Headed(lambda x: (x + PRIOR.log()).softmax(-1)))
    second.load_state_dict(first.state_dict())
    x, relevance = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    found, wanted = (explained(m, x, relevance, composite) for m in (first, second))
    assert_close(found.relevance, wanted.relevance, 1e-10)
    assert found.audit.excess + found.audit.constants == pytest.approx(wanted.audit.excess + wanted.audit.constants)
    assert abs(found.audit.unexplained) < 1e-10


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.exp() / x.exp().sum(-1),
        lambda x: x.exp() * SEEN / x.exp().sum(-1, keepdim=True),
        lambda x: x.exp() / (x.exp() * SEEN).sum(-1, keepdim=True),
        lambda x: x.exp() / x.exp().masked_fill(~SEEN, 0.0).sum(-1, keepdim=True),
        lambda x: x.exp().masked_fill(~SEEN, 1.0) / x.exp().sum(-1, keepdim=True),
        lambda x: over_its_sum(x.exp().masked_fill(~SEEN, 1.0)),
        lambda x: x.exp() * x.exp().sum(-1, keepdim=True),
        lambda x: (2 * x.log_softmax(-1)).exp(),
        lambda x: (x.log_softmax(-1) + 1.0).exp(),
        lambda x: (x.flip(0) - x.logsumexp(-1, keepdim=True)).exp(),
        lambda x: torch.sub(x, x.logsumexp(-1, keepdim=True), alpha=2).exp(),
        lambda x: x.exp() * x.exp().sum(-1, keepdim=True) ** -2,
    ],
    ids=[
        "other sums",
        "mask above",
        "mask below",
        "mask below, filled",
        "filled above",
        "ones",
        "times",
        "squared",
        "plus one",
        "of another",
        "twice less",
        "twice over",
    ],
)
def test_rows_divided_by_something_else_are_no_softmax(function: Callable[[Tensor], Tensor]) -> None:
    model = ready(Headed(function))
    plan = rp.LRP(model, rp.AttnLRP()).plan(torch.randn(4, 4, dtype=torch.float64))
    assert "softmax" not in {site.kind for site in plan.sites if site.name != "log_softmax"}
