"""Which module an operation ran in: looked up where it is asked, with no hook on any module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import relprop as rp
from relprop.plan import Plan

HOOKS: Any = torch.nn.modules.module


class Block(nn.Module):
    """Calls a module by itself, one that is shared, one that nobody registered, and functions."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.own, self.shared = nn.Linear(4, 4), shared
        self.hidden = [nn.Linear(4, 4).eval()]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shared(self.own(x).relu()) + torch.tanh(x)
        return torch.sigmoid(self.hidden[0](y) * y)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared = nn.Sequential(nn.Linear(4, 4), nn.Softplus())
        self.blocks = nn.ModuleList([Block(shared), Block(shared)])
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(bool(HOOKS._global_forward_hooks or HOOKS._global_forward_pre_hooks))
        for block in self.blocks:
            x = block(x) + block.own.forward(x)
        return x


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def rows(plan: Plan) -> list[Any]:
    return [(s.paths, s.module_type, s.name, s.kind, s.call, d.rule) for s, d in zip(plan.sites, plan.decisions)]


def explained(model: nn.Module, x: Tensor, **asked: Any) -> rp.Explanation:
    found: rp.Explanation = rp.LRP(model, rp.AttnLRP()).explain(x, target=1, **asked)
    return found


def test_as_followed_by_hooks(model: Model, x: Tensor) -> None:
    looked_up, followed = explained(model, x), explained(model, x, layers=["blocks.0"])
    assert model.seen == [False, True]
    assert rows(looked_up.plan) == rows(followed.plan) == rows(rp.LRP(model, rp.AttnLRP()).plan(x))
    assert_close(looked_up.relevance, followed.relevance)
    paths = [s.paths for s in looked_up.plan.sites]
    assert ("blocks.0.shared.0", "blocks.1.shared.0") in paths and ("blocks.1.own",) in paths
    assert [(s.module_type, s.name) for s in looked_up.plan.sites if s.paths == ("",)] == [
        (Model, "linear"), (Model, "add"), (Model, "linear"), (Model, "add"),
    ]  # fmt: skip
    hidden = [s for s in looked_up.plan.sites if s.paths == ("blocks.0",) and s.module_type is nn.Linear]
    assert [s.name for s in hidden] == ["linear"]  # nobody registered it: the block's name, and its own type


@pytest.mark.parametrize("kind", ["pre", "post", "backward"])
def test_what_hooks_call(model: Model, x: Tensor, kind: str) -> None:
    part, bare = model.blocks[0], explained(model, x)
    handle = {
        "pre": lambda: part.register_forward_pre_hook(lambda module, args: (args[0].exp(),)),
        "post": lambda: part.register_forward_hook(lambda module, args, y: y.exp()),
        "backward": lambda: part.register_full_backward_hook(lambda module, given, got: None),
    }[kind]()
    try:
        assert rows(explained(model, x).plan) == rows(explained(model, x, layers=["blocks.1"]).plan)
        assert model.seen == [False, True, True]
        assert kind != "backward" or torch.allclose(explained(model, x).relevance, bare.relevance)
        exps = [s.paths for s in explained(model, x).plan.sites if s.name == "exp"]
        assert exps == {"pre": [("blocks.0",)], "post": [("",)], "backward": []}[kind]
    finally:
        handle.remove()


def others_hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handle = HOOKS.register_module_forward_hook(lambda module, args, y: None)
    yield
    handle.remove()


def another_call(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not (HOOKS._global_forward_hooks or HOOKS._global_forward_pre_hooks):
            return self.forward(*args, **kwargs)
        return ours(self, *args, **kwargs)

    ours = nn.Module._call_impl
    monkeypatch.setattr(nn.Module, "_call_impl", call)
    yield


@pytest.mark.parametrize("arranged", [others_hook, another_call])
def test_where_somebody_changed_how_modules_are_called(
    model: Model, x: Tensor, arranged: Callable[..., Iterator[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(explained(model, x).plan)
    for _ in arranged(monkeypatch):
        assert rows(explained(model, x).plan) == expected
        assert model.seen == [False, True]


def test_from_inside_another_module(model: Model, x: Tensor) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> list[Any]:
            target = lambda y: torch.tanh(y).sum(1)  # noqa: E731
            found = rp.LRP(self.inner, rp.AttnLRP()).explain(x, target=target)
            return rows(found.plan)

    def target(y: Tensor) -> Tensor:
        return torch.tanh(y).sum(1)

    expected = rows(rp.LRP(model, rp.AttnLRP()).explain(x, target=target).plan)
    assert Outer().eval()(x) == expected
    assert [row[:2] for row in expected if row[2] == "tanh"][-1] == (("",), None)


def test_nothing_stays(model: Model, x: Tensor) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("its own")

    before = dict(HOOKS._global_forward_hooks), dict(HOOKS._global_forward_pre_hooks)
    explained(model, x)
    explained(model, x, layers=["blocks.0"])
    with pytest.raises(ValueError, match="its own"):
        explained(nn.Sequential(model, Fails()).eval(), x)
    assert (dict(HOOKS._global_forward_hooks), dict(HOOKS._global_forward_pre_hooks)) == before


def test_the_model_runs_once_more_only_to_name_what_has_no_rule(x: Tensor) -> None:
    class Unruled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gs: Any) -> Any:
            return gs[0]

    class Inner(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Inner.calls += 1
            y: Tensor = Unruled.apply(x)
            return y

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Inner()), nn.Linear(4, 4)).eval()
    with pytest.raises(rp.UnknownOperationError, match=r"UnruledBackward in module '1\.0'"):
        rp.LRP(model, rp.Epsilon()).explain(x, target=1)
    assert Inner.calls == 2
    found = rp.LRP(model, rp.Epsilon()).explain(x, target=1, unknown="gradient")
    assert Inner.calls == 3
    assert "1.0" in found.audit.native[0]
