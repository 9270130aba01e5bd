"""Where nobody reads an activation any more its memory is used again; whoever still holds one finds it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import relprop as rp
from relprop.record.books import Ledger

RULES = rp.UniformEpsilon()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What was said of every tensor that was asked about."""
    found: list[bool] = []
    spent = Ledger.spent

    def noted(self: Ledger, kept: Tensor) -> bool:
        found.append(spent(self, kept))
        return found[-1]

    monkeypatch.setattr(Ledger, "spent", noted)
    return found


def network(inplace: bool) -> nn.Sequential:
    torch.manual_seed(0)
    widths = (3, 8, 8, 8)
    pairs = pairwise(widths)
    layers = [part for a, b in pairs for part in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def picture() -> Tensor:
    return torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(1))


def exact(model: nn.Module, x: Tensor, **asked_for: Any) -> Tensor:
    """The relevance by the books of every site, for which every activation stays as it is."""
    relevance: Tensor = rp.LRP(model, RULES).explain(x, audit="sites", **asked_for).relevance
    return relevance


@pytest.mark.parametrize("inplace", [False, True])
def test_memory_is_used_again_and_changes_nothing(inplace: bool, asked: list[bool]) -> None:
    model, x = network(inplace), picture()
    relevance = rp.LRP(model, RULES).explain(x, target=1).relevance
    assert asked == [True] * 3
    assert_close(relevance, exact(model, x, target=1))
    assert asked == [True] * 3 + [False] * 3


def held(model: nn.Module, x: Tensor, take: Callable[[Tensor], Any]) -> tuple[list[Any], list[Tensor]]:
    """What a user's hooks take of the activations in a call, and what that was at the time."""
    kept: list[Any] = []
    then: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        kept.append(take(output))
        then.append(output.detach().clone())

    handles = [part.register_forward_hook(hook) for part in model if isinstance(part, nn.ReLU)]
    try:
        rp.LRP(model, RULES).explain(x, target=1)
    finally:
        for handle in handles:
            handle.remove()
    return kept, then


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "take",
    [lambda y: y, lambda y: y.detach(), lambda y: y[:1], lambda y: y.detach().flatten(1)[:, 5:],
     lambda y: y.detach().numpy(), lambda y: y.untyped_storage(), lambda y: y.data],
    ids=["itself", "detached", "a part", "a part of another shape", "an array", "its memory", "its data"],
)  # fmt: skip
def test_what_a_user_holds_stays(inplace: bool, take: Callable[[Tensor], Any], asked: list[bool]) -> None:
    kept, then = held(network(inplace), picture(), take)
    assert asked == [False] * 3
    for now, before in zip(kept, then, strict=True):
        expected = take(before)
        if isinstance(now, torch.UntypedStorage):
            now, expected = (torch.tensor([], dtype=torch.float32).set_(s) for s in (now, expected))
        assert_close(torch.as_tensor(now).detach(), torch.as_tensor(expected), rtol=0, atol=0)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_output_stays(inplace: bool) -> None:
    model, x = network(inplace)[:2], picture()
    with torch.no_grad():
        expected = model(x)
    found = rp.LRP(model, RULES).explain(x, target=lambda y: y.sum((1, 2, 3)))
    assert_close(found.output, expected, rtol=0, atol=0)
    found = rp.LRP(model, RULES).explain(x, target=expected)
    assert_close(found.output, expected, rtol=0, atol=0)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_shown_of_layers_stays(inplace: bool) -> None:
    model, x = network(inplace), picture()
    names = ["0", "1", "3", "3:in", "5"]
    found = rp.LRP(model, RULES).explain(x, target=1, layers=names)
    sites = rp.LRP(model, RULES).explain(x, target=1, layers=names, audit="sites")
    for name, relevance in sites.layers.items():
        assert_close(found.layers[name], relevance)
        assert_close(found.activations[name], sites.activations[name], rtol=0, atol=0)


@pytest.mark.parametrize("inplace", [False, True])
def test_only_the_last_backward_takes_it(inplace: bool, asked: list[bool]) -> None:
    model, x = network(inplace), picture()
    found = rp.LRP(model, RULES).explain(x, targets=[0, 1, 2])
    assert asked == [False] * 6 + [True] * 3
    for target, one in enumerate(found):
        assert_close(one.relevance, exact(model, x, target=target))


@pytest.mark.parametrize("around", [False, True])
def test_conditions(around: bool) -> None:
    model, x = network(True), picture()
    asked_for = {"target": 1, "conditions": [{"2": 3}, {"2": 5, "4": 1}, {}], "exclude_parallel": not around}
    found = rp.LRP(model, RULES).explain(x, **asked_for)
    for one, other in zip(found, rp.LRP(model, RULES).explain(x, audit="sites", **asked_for), strict=True):
        assert_close(one.relevance, other.relevance)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_again(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network(True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.utils.checkpoint.checkpoint(self.body[:6], x, use_reentrant=reentrant)
            z: Tensor = self.body[6:](y)
            return z

    model, x = Checkpointed().eval(), picture()
    assert_close(rp.LRP(model, RULES).explain(x, target=1).relevance, exact(model.body, x, target=1))


@pytest.mark.parametrize("inplace", [False, True])
def test_two_readers(inplace: bool) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.left, self.right = network(inplace)[:4], nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return (self.left(y).relu() * 2 + self.right(y).relu() + y[:, :4, 1:-1, 1:-1]).mean((2, 3))

    model, x = Branches().eval(), picture()
    assert_close(rp.LRP(model, RULES).explain(x, target=1).relevance, exact(model, x, target=1))
