"""What no torch call shows, custom Functions and scripted modules: refused by name, then registered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.errors import UnknownOperationError
from relprop.record.nodes import NODES
from tests.architectures.arch_models import draw
from tests.reference.recipe import fill
from tests.support.compare import assert_close
from tests.support.networks import Of
from tests.support.state import assert_same_state, snapshot


class Softplus2(torch.autograd.Function):
    """``y = log2(1 + 2^x)``, with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.log2(1 + torch.exp2(x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.sigmoid(x * 0.6931471805599453)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(Softplus2.apply(self.first(x)))


class Scripted(nn.Module):
    """A submodule compiled by TorchScript: its calls run out of sight."""

    def __init__(self, inner: nn.Module, script: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.inner = torch.jit.script(inner) if script else inner

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.5 * x)


@pytest.fixture
def registered() -> Iterator[None]:
    """Registrations last as long as the test."""
    yield
    for what in (Softplus2, Swish):
        NODES.forget(what)


def test_custom_function_is_refused_by_name() -> None:
    model = fill(Custom().double())
    before = snapshot(model)
    with pytest.raises(UnknownOperationError) as caught:
        rp.LRP(model, rp.Zero()).explain(draw(2, 4), target=1)
    message = str(caught.value)
    assert "Softplus2" in message
    assert re.search(r"register\w*\(", message), f"no line that registers a rule in: {message}"
    assert_same_state(before, snapshot(model))


def test_custom_function_with_the_identity_rule(registered: None) -> None:
    model = fill(Custom().double())
    x = draw(2, 4)
    r = draw(2, 3, seed=9)
    rp.register_function(
        Softplus2,
        lambda node, g: g * torch.log2(1 + torch.exp2(node.saved_tensors[0])) / node.saved_tensors[0],
    )

    explanation = rp.LRP(model, rp.Zero()).explain(x, target=r)

    z = model.first(x).detach()
    y = torch.log2(1 + torch.exp2(z))
    out = model.last(y).detach()
    r_y = y * ((r / out) @ model.last.weight.detach())  # which passes the function unchanged
    expected = x * ((r_y / z) @ model.first.weight.detach())
    assert_close(explanation.relevance, expected, rtol=1e-10)


def test_custom_function_may_pass_as_gradient() -> None:
    """`unknown="gradient"` lets it pass, and the audit says so."""
    model = fill(Custom().double())
    x = draw(2, 4)
    with pytest.raises(rp.RelpropError):
        rp.LRP(model, rp.Zero()).explain(x, target=1)
    explanation = rp.LRP(model, rp.Zero()).explain(x, target=1, unknown="gradient")
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(given)[:, 1].sum(), given)
    assert_close(explanation.relevance, x * gradient, rtol=1e-10)
    assert "Softplus2" in str(explanation.audit)


def test_functions_of_the_same_name_are_told_apart_or_shared(registered: None) -> None:
    """Registering twice must be asked for."""
    rp.register_function(Softplus2)
    with pytest.raises(rp.RelpropError, match="already"):
        rp.register_function(Softplus2)
    rp.register_function(Softplus2, replace=True)


SCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")


@SCRIPT
@pytest.mark.parametrize("inner", [Swish, lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh())], ids=["call", "layers"])
def test_scripted_submodule_is_refused(inner: Any) -> None:
    model = fill(Scripted(inner(), script=True).double())
    before = snapshot(model)
    with pytest.raises(rp.RelpropError) as caught:
        rp.LRP(model, rp.Zero()).explain(draw(2, 4), target=1)
    message = str(caught.value)
    assert "in module 'inner'" in message, message
    assert "register_module(" in message, message
    assert_same_state(before, snapshot(model))


@SCRIPT
def test_scripted_submodule_works_once_registered(registered: None) -> None:
    """Taken as one elementwise function, it equals its source."""
    scripted = fill(Scripted(Swish(), script=True).double())
    plain = fill(Scripted(Swish(), script=False).double())
    plain.load_state_dict(scripted.state_dict())
    x, r = draw(2, 4), draw(2, 3, seed=9)
    rp.register_module(scripted.inner, "identity")
    found = rp.LRP(scripted, rp.Zero()).explain(x, target=r).relevance
    expected = rp.LRP(plain, rp.Zero()).explain(x, target=r).relevance
    assert_close(found, expected, rtol=1e-10)


class Outside(nn.Module):
    """Computed by code that nobody wants to look into: of degree one, so that its own gradient is right."""

    def forward(self, x: Tensor) -> Tensor:
        return x.norm(dim=-1, keepdim=True) + torch.where(x > 0, x, 0.5 * x).sum(-1, keepdim=True)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 6), inner, nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


def test_module_taken_by_its_own_gradient() -> None:
    """Registered for one module: the same as looking into it, where it is of degree one."""
    model = fill(Around(Outside()).double())
    x, r = draw(2, 4), draw(2, 3, seed=9)
    lrp = rp.LRP(model, rp.Zero())
    expected = lrp.explain(x, target=r).relevance
    sites = len(lrp.plan(x).sites)
    rp.register_module(model.inner, "gradient")
    assert len(lrp.plan(x).sites) < sites
    assert_close(lrp.explain(x, target=r).relevance, expected, rtol=1e-10)


def test_module_of_another_shape_is_no_elementwise_function() -> None:
    model = fill(Around(Outside()).double())
    rp.register_module(model.inner, "identity")
    before = snapshot(model)
    with pytest.raises(rp.RelpropError, match="gradient"):
        rp.LRP(model, rp.Zero()).explain(draw(2, 4), target=1)
    assert_same_state(before, snapshot(model))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_traced_model_is_refused() -> None:
    traced = torch.jit.trace(fill(nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()), draw(1, 4))
    with pytest.raises(rp.RelpropError, match="cript"):
        rp.LRP(traced, rp.Zero()).explain(draw(2, 4), target=1)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x * x.sum().item(),
        lambda x: x * torch.tensor(x.tolist()),
        lambda x: x * torch.from_numpy(x.detach().numpy()),
        lambda x: x * x.histc(x.shape[1]),
        lambda x: x + x.data,
    ],
    ids=["item", "tolist", "numpy", "histc", "data"],
)
def test_values_that_leave_the_graph_are_listed(read: Any) -> None:
    """A cut that leaves other paths is no error, but the plan and the audit say where it is."""

    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return read(x)

    lrp = rp.LRP(Reads(), rp.Zero())
    x = draw(2, 4, dtype=torch.float32).abs()
    assert len(lrp.explain(x, target=lambda y: y).audit.cuts) == 1
    assert lrp.plan(x).cuts


@pytest.mark.parametrize("name", ["cov", "corrcoef", "trapezoid"])
def test_every_node_of_an_unlisted_function_bears_its_name(name: str) -> None:
    """Some make several nodes, and end in one of degree one."""
    call = getattr(torch, name)
    model = nn.Sequential(nn.Linear(4, 4), Of(call))
    with pytest.raises(rp.UnknownOperationError) as caught:
        rp.LRP(model).explain(torch.randn(4, 4), target=lambda y: y.sum())
    said = str(caught.value).splitlines()
    assert len(said) == 3 and said[1].startswith(f"  torch function '{name}' (")
    assert "Backward" in said[1] and "in module '1'" in said[1] and f"relprop.op('{name}')" in said[1]
    assert "out of sight" not in str(caught.value)
    e = rp.LRP(model).explain(torch.randn(4, 4), target=lambda y: y.sum(), unknown="gradient")
    assert e.audit.native and all(text.endswith(f"(1.{name})") for text in e.audit.native)


def test_vmap_is_named_with_the_module_it_ends() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Of(torch.vmap(torch.sin)), nn.Linear(4, 2))
    with pytest.raises(rp.UnknownOperationError, match=r"SinBackward0 in module '1'.* \(in torch\.vmap"):
        rp.LRP(model).explain(torch.randn(4, 4), target=0)


def test_what_was_computed_before_the_forward_is_to_be_detached() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.table = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
            self.kept = self.table * 2.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * self.kept

    model, x = Kept(), torch.randn(2, 3)
    with pytest.raises(rp.UnknownOperationError, match=r"MulBackward0 .*before this forward .* is to be detached"):
        rp.LRP(model, rp.Zero()).explain(x, target=0)
    model.kept = model.kept.detach()
    assert rp.LRP(model, rp.Zero()).explain(x, target=0).audit.balanced
