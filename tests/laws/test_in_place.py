"""In-place operations and moves of elements mean what their plain formulations mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.laws.test_formulations import RULES, every_rule, same
from tests.support.compare import assert_close
from tests.support.networks import ready, residual_net


@every_rule
def test_in_place_residual_and_relu(rule: str) -> None:
    in_place, plain = residual_net(), residual_net(plain=True)
    plain.load_state_dict(in_place.state_dict(), strict=False)
    same(in_place, plain, torch.randn(2, 3, 8, 8, dtype=torch.float64), RULES[rule], 1e-8)


IN_PLACE: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "iadd": (lambda u, v: u.__iadd__(v), lambda u, v: u + v),
    "add_ of a product": (lambda u, v: u.add_(v, alpha=0.5), lambda u, v: u + 0.5 * v),
    "isub": (lambda u, v: u.__isub__(v), lambda u, v: u - v),
    "imul by a number": (lambda u, v: u.mul_(2.0).add_(v), lambda u, v: 2.0 * u + v),
    "idiv by a number": (lambda u, v: u.div_(4.0) + v, lambda u, v: u / 4 + v),
    "relu_ ignored": (lambda u, v: (u.relu_(), u + v)[1], lambda u, v: u.relu() + v),
    "two in a row": (lambda u, v: u.relu_().add_(v).relu_(), lambda u, v: (u.relu() + v).relu()),
    "gate": (lambda u, v: u.mul_(v.sigmoid_()), lambda u, v: u * v.sigmoid()),
    "slice assignment": (lambda u, v: _assign(u, v), lambda u, v: torch.cat([v[:, :2], u[:, 2:]], 1)),
    "slice addition": (
        lambda u, v: _add_to_slice(u, v),
        lambda u, v: torch.cat([u[:, :2] + v[:, :2], u[:, 2:]], 1),
    ),
    "zero_ of a slice": (lambda u, v: _zero_slice(u) + v, lambda u, v: u * _mask(u) + v),
    "masked_fill_": (lambda u, v: u.masked_fill_(_mask(u) == 0, 0.0) + v, lambda u, v: u * _mask(u) + v),
    "used before and after": (lambda u, v: _before_and_after(u, v), lambda u, v: 3.0 * u + v + u.relu()),
}


def _assign(u: Tensor, v: Tensor) -> Tensor:
    u[:, :2] = v[:, :2]
    return u


def _add_to_slice(u: Tensor, v: Tensor) -> Tensor:
    u[:, :2] += v[:, :2]
    return u


def _zero_slice(u: Tensor) -> Tensor:
    u[:, 3:].zero_()
    return u


def _mask(u: Tensor) -> Tensor:
    mask = torch.ones_like(u)
    mask[:, 3:] = 0
    return mask


def _before_and_after(u: Tensor, v: Tensor) -> Tensor:
    tripled = 3.0 * u
    u.relu_()
    return tripled + v + u


class Join(nn.Module):
    def __init__(self, join: Callable[..., Tensor]) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join(self.left(x), self.right(x)))


@every_rule
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operations(name: str, rule: str) -> None:
    one, two = (ready(Join(join)) for join in IN_PLACE[name])
    two.load_state_dict(one.state_dict())
    same(one, two, torch.randn(3, 4, dtype=torch.float64), RULES[rule], 1e-8)


# -- structure --

STRUCTURE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "flatten": (lambda x: x.flatten(1), lambda x: x.reshape(x.shape[0], -1)),
    "stack and sum": (
        lambda x: torch.stack([x, x.relu()]).sum(0).flatten(1),
        lambda x: (x + x.relu()).flatten(1),
    ),
    "chunk": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1).flatten(1), lambda x: x.roll(2, 1).flatten(1)),
    "index": (
        lambda x: x[:, [2, 0, 3]].flatten(1),
        lambda x: x.index_select(1, torch.tensor([2, 0, 3])).flatten(1),
    ),
    "mean": (lambda x: x.mean((2, 3)), lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1)),
    "average pool": (lambda x: functional.avg_pool2d(x, 4).flatten(1), lambda x: x.sum((2, 3)) / 16),
    "maximum": (lambda x: x.amax((2, 3)), lambda x: functional.adaptive_max_pool2d(x, 1).flatten(1)),
    "max pool": (lambda x: functional.max_pool2d(x, 4).flatten(1), lambda x: x.flatten(2).max(-1).values),
    "pad": (
        lambda x: functional.pad(x, (1, 1)).flatten(1),
        lambda x: nn.ZeroPad2d((1, 1, 0, 0))(x).flatten(1),
    ),
    "einops": (
        lambda x: torch.einsum("nchw->nwhc", x).flatten(1),
        lambda x: x.permute(0, 3, 2, 1).flatten(1),
    ),
    "where": (
        lambda x: torch.where(x > 0.3, x, 0.0).flatten(1),
        lambda x: (x * (x > 0.3)).flatten(1),
    ),
    "gather": (
        lambda x: x.flatten(2).gather(2, torch.arange(3).expand(x.shape[0], 4, 3)).flatten(1),
        lambda x: x.flatten(2)[:, :, :3].flatten(1),
    ),
}


class Structured(nn.Module):
    def __init__(self, structure: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.structure = nn.Conv2d(2, 4, 3, padding=1), structure

    def forward(self, x: Tensor) -> Tensor:
        return self.structure(self.conv(x))


@pytest.mark.parametrize("rule", ["zero", "gamma", "flat"])
@pytest.mark.parametrize("name", STRUCTURE)
def test_structure(name: str, rule: str) -> None:
    one, two = (ready(Structured(structure)) for structure in STRUCTURE[name])
    two.load_state_dict(one.state_dict())
    if name == "where":  # as explicit relevance, what stands on zeros is the constant's here and the mask's there
        x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
        weight = torch.randn(64, dtype=torch.float64)
        found = [
            rp.LRP(model, RULES[rule]).explain(x, target=lambda o: (o * weight).sum(1)).relevance
            for model in (one, two)
        ]
        assert_close(found[0], found[1], 1e-9)
        return
    same(one, two, torch.randn(2, 2, 4, 4, dtype=torch.float64), RULES[rule])


class Joined(nn.Module):
    """A sum in place into a map's output that the rule needs as it was, of which others hold a part, or nobody."""

    def __init__(self, part: bool, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.part, self.in_place = part, in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        held = y[:, :1] if self.part else None
        if self.in_place:
            y += self.second(x)
        else:
            y = y + self.second(x)
            held = y[:, :1] if self.part else None
        z: Tensor = self.last(y.relu())
        return (z if held is None else z * 2 + held).mean((2, 3))


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("rule", [rp.Epsilon(0.1), rp.ZPlus(), rp.Gamma(0.25), rp.AlphaBeta(2, 1)], ids=str)
def test_a_sum_in_place_leaves_what_a_rule_needs(part: bool, rule: rp.Rule) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    in_place, plain = (rp.LRP(Joined(part, i).double(), rule).explain(x, targets=[1, 0, 1]) for i in (True, False))
    for found, expected in zip(in_place, plain, strict=True):
        assert_close(found.relevance, expected.relevance, 1e-10)
        assert found.audit.bias == pytest.approx(expected.audit.bias, rel=1e-9)
        assert found.audit.unexplained_share < 1e-10


RESHAPED: dict[str, Callable[[Tensor], object]] = {
    "squeeze": lambda h: h.squeeze_(1),
    "unsqueeze": lambda h: h.unsqueeze_(0),
    "transpose": lambda h: h.transpose_(0, 2),
    "swapaxes": lambda h: h.swapaxes_(1, 2),
}


@pytest.mark.parametrize("name", RESHAPED)
def test_another_shape_in_place(name: str) -> None:
    """Also where relevance may stand on zeros; what has to be a new tensor says so."""

    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            RESHAPED[name](h)
            return self.last(h.flatten()[None])

    model, x = Reshaped().double(), torch.randn(3, 1, 4, dtype=torch.float64)
    for composite in (rp.Zero(), rp.Composite([(rp.Kind("linear"), rp.Flat())])):
        assert rp.LRP(model, composite).explain(x, target=0).audit.unexplained_share < 1e-10
    with pytest.raises(rp.ModelStateError, match=f"create_graph=True cannot follow {name}_, .*: call {name}, or"):
        rp.LRP(model, rp.Zero()).explain(x, target=0, create_graph=True)


UNCHANGED: dict[str, Callable[[Tensor], object]] = {
    "dropout": lambda h: functional.dropout(h, 0.5, training=False, inplace=True),
    "module": lambda h: nn.Dropout2d(0.2, inplace=True).eval()(h),
    "conj_physical": lambda h: h.conj_physical_(),
}


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("name", UNCHANGED)
def test_what_changes_nothing_in_place(name: str, create_graph: bool) -> None:
    class Unchanged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(2, 3, 2), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            UNCHANGED[name](h)
            return self.last(h.flatten(1))

    model, x = Unchanged().double(), torch.randn(2, 2, 3, 3, dtype=torch.float64)
    wanted = rp.LRP(nn.Sequential(model.first, nn.ReLU(), nn.Flatten(), model.last), rp.ZPlus()).explain(x, target=0)
    found = rp.LRP(model, rp.ZPlus()).explain(x, target=0, create_graph=create_graph)
    assert_close(found.relevance.detach(), wanted.relevance, 1e-12)


ZEROED: dict[str, Callable[[Tensor], Tensor]] = {
    "tril": torch.tril,
    "triu": lambda h: h.triu(1),
    "diag": lambda h: torch.diag(h[0]),
    "diag_embed": torch.diag_embed,
    "diagflat": torch.diagflat,
    "block_diag": lambda h: torch.block_diag(h[:2], h[2:, :3]),
    "tril in place": lambda h: h.clone().tril_(),
}


@pytest.mark.parametrize("name", ZEROED)
def test_zeros_around_what_is_kept(name: str) -> None:
    """Below a rule that gives relevance to zeros they are constants."""
    x = torch.randn(4, 4, dtype=torch.float64)
    y = ZEROED[name](x)

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(y.numel(), 2, bias=False).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(ZEROED[name](x * 1.0).reshape(1, -1))

    e = rp.LRP(Kept(), [(rp.Kind("linear"), rp.Flat())]).explain(x, target=0)
    each = float(e.output[0, 0]) / y.numel()
    assert float(e.relevance.sum()) == pytest.approx(each * int((y != 0).sum()), rel=1e-9)
    assert e.audit.constants == pytest.approx(each * int((y == 0).sum()), rel=1e-9)
