"""What a place holds: modules that hand on what they were given, containers, maps whose batch norm comes later."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop import units as u
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot


def given(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(x: Tensor, h: Tensor, gradient: Tensor) -> Tensor:
    """Gradient x input through `h` alone: LRP-0 of maps without biases and ReLUs."""
    (g,) = torch.autograd.grad(h, x, gradient.expand_as(h))
    return x.detach() * g


class Shortcut(nn.Module):
    """A module that returns the very tensor that it was given, which something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.around = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x).relu()
        return self.head(self.inner(h) + self.around(h))


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_module_that_returns_what_it_was_given(create_graph: bool) -> None:
    torch.manual_seed(0)
    model, x = Shortcut().double(), given().requires_grad_()
    h = model.before(x).relu()
    row = model.head.weight[1].detach()
    lrp = rp.LRP(model, rp.Zero())
    e = lrp.explain(x, target=1, layers="around", create_graph=create_graph)
    assert_close(e.layers["around"].detach(), (h * row).detach(), 1e-12)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    e = lrp.explain(x, target=1, conditions={"around": [0, 1]}, create_graph=create_graph)
    assert_close(e.relevance.detach(), by_hand(x, h, row * mask), 1e-12)


def test_a_module_that_returns_what_it_goes_on_with() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.first(x).relu()
            return h, self.second(h)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.head = Both(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(sum(self.both(x)))

    torch.manual_seed(1)
    model, x = Outer().double(), given(1).requires_grad_()
    h = model.both.first(x).relu()
    row = model.head.weight[1].detach()
    e = rp.LRP(model, rp.Zero()).explain(x, target=1, layers="both")
    assert_close(e.layers["both"][0], (h * row).detach(), 1e-12)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0]).double()
    expected = by_hand(x, h + model.both.second(h), row * mask)
    e = rp.LRP(model, rp.Zero()).explain(x, target=1, conditions={"both": [0, 2]})
    assert_close(e.relevance, expected, 1e-12)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


CONTAINERS: dict[str, tuple[Any, Any]] = {
    "dict": (lambda a, b: {"a": a, "b": b}, lambda o: (o["a"], o["b"])),
    "nested": (lambda a, b: {"a": (a, 3), "b": [b, None]}, lambda o: (o["a"][0], o["b"][0])),
    "named": (Pair, lambda o: (o.left, o.right)),
    "list": (lambda a, b: [a, b], lambda o: o),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("way", ["out", "in"])
def test_tensors_in_containers(container: str, way: str) -> None:
    pack, unpack = CONTAINERS[container]

    class Making(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return pack(2 * x, 3 * x)

    class Taking(nn.Module):
        def forward(self, held: Any) -> Tensor:
            a, b = unpack(held)
            return a - 5 * b

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.making, self.taking = Making(), Taking()

        def forward(self, x: Tensor) -> Tensor:
            return self.taking(self.making(x))

    x = given()
    lrp, place = rp.LRP(Outer(), rp.Zero()), {"out": "making", "in": "taking:in"}[way]
    e = lrp.explain(x, target=(slice(None),), layers=place)
    assert_close(e.layers[place][0], 2 * x)
    assert_close(e.layers[place][1], -15 * x)
    e = lrp.explain(x, target=(slice(None),), conditions={place: 1})
    assert_close(e.relevance, -13 * x * torch.tensor([0.0, 1.0, 0.0, 0.0]))


def test_the_last_state_of_a_recurrent_layer() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = nn.LSTM(4, 3, num_layers=3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            made, (last, _) = self.layers(x)
            return self.head(last[-1] + made[:, -1])

    torch.manual_seed(0)
    model, x = Last().double(), torch.randn(2, 5, 4, dtype=torch.float64)
    lrp = rp.LRP(model, rp.Zero())
    e = lrp.explain(x, target=1, layers="layers")
    made, last = e.layers["layers"]
    values, (state, _) = model.layers(x)
    assert_close(made[:, -1], values[:, -1].detach() * model.head.weight[1].detach(), 1e-10)
    assert_close(last[-1], state[-1].detach() * model.head.weight[1].detach(), 1e-10)
    each = lrp.explain(x, target=1, conditions=[{"layers": i} for i in range(3)])
    assert_close(sum(c.relevance for c in each), lrp.explain(x, target=1).relevance, 1e-10)


def test_a_final_softmax_is_recognised_behind_a_place() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).double(), given()
    lrp = rp.LRP(model, rp.Zero())
    plain = lrp.explain(x, target=1)
    for name in ("1", "*"):
        asked = lrp.explain(x, target=1, layers=name)
        assert_close(asked.relevance, plain.relevance, 1e-12)
        assert asked.audit.seed == pytest.approx(plain.audit.seed, rel=1e-12)


def test_every_place_between_a_map_and_its_batch_norm() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x)

    torch.manual_seed(0)
    model = nn.Sequential(Wrapped(), nn.Identity(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3)).double().eval()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    lrp = rp.LRP(model, rp.EpsilonPlus())
    e = lrp.explain(x, target=1, layers=["0.map", "0", "1", "2"])
    assert list(e.layers) == ["0.map", "0", "1", "2"]
    for name in ("0.map", "0", "1"):
        assert_close(e.layers[name], e.layers["2"], 1e-12, name)
    inner, outer, both = lrp.explain(
        x, target=1, conditions=[{"0.map": 0}, {"1": u.Neurons((0, 1, 2))}, {"0.map": 0, "1": u.Neurons((0, 1, 2))}]
    )
    assert inner.relevance.abs().sum() > 0
    assert_close(both.relevance, outer.relevance, 1e-12)


@pytest.mark.parametrize("name", ["same", "changed:in"])
def test_one_tensor_under_two_names_that_is_changed_in_place(name: str) -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.changed, self.head = nn.Identity(), nn.ReLU(inplace=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = 2 * x
            again = self.same(h)
            self.changed(again)
            return self.head(h + again)

    model, x = Aliased().double(), given()
    before = snapshot(model)
    with pytest.raises(rp.ModelStateError, match=f"the tensor at '{name}' is changed in place"):
        rp.LRP(model, rp.Zero()).explain(x, target=1, layers=name)
    assert_same_state(before, snapshot(model))
    e = rp.LRP(model, rp.Zero()).explain(x, target=1, layers="head:in")
    assert_close(e.output, model(x).detach())
