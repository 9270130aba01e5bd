"""Networks of many kinds: one call each, equal to an oracle that shares no code with the library.

The oracle is the same network with `detach` in the places that the rules name (see `detached.py`); relevance
at the output is random and independent of the output.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import FACTORIES, Net, draw, make
from tests.architectures.detached import reference
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")


def leaves(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    values = found.values() if isinstance(found, dict) else found
    return [t for value in values for t in leaves(value)]


def compare(net: Net, relevance: Tensor | None, rtol: float) -> Any:
    before = snapshot(net.model)
    plain = net.model(*net.args)
    value, expected = reference(net.oracle, net.args, net.select, relevance)
    seed = "value" if relevance is None else relevance
    explanation = rp.LRP(net.model, rp.Zero()).explain(*net.args, target=net.select, seed=seed)
    assert_same_state(before, snapshot(net.model))
    assert_close(explanation.output.detach(), plain.detach(), rtol=1e-12, label="forward")
    assert_close(net.select(explanation.output), value, rtol=1e-9, label="the oracle's forward")
    for found, wanted in zip(leaves(explanation.relevance), expected, strict=True):
        assert_close(found, wanted, rtol=rtol, label="relevance")
    return explanation


@pytest.mark.parametrize("name", FACTORIES)
def test_random_relevance(name: str) -> None:
    net = make(name)
    shape = net.select(net.model(*net.args)).shape
    compare(net, draw(*shape, seed=9), rtol=1e-9)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_value_and_its_books(name: str) -> None:
    net = make(name)
    explanation = compare(net, None, rtol=1e-9)
    scale = sum(t.abs().sum().item() for t in leaves(explanation.relevance))
    assert abs(explanation.audit.unexplained) < 1e-6 * scale, explanation.audit


@pytest.mark.parametrize("name", ["unet3d", "detector", "squeeze_excite", "sampling", "gated", "norms"])
@pytest.mark.parametrize(
    "preset",
    [rp.EpsilonPlusFlat, rp.EpsilonAlpha2Beta1, lambda: rp.EpsilonGammaBox(low=-4.0, high=4.0), rp.ResLRP],
    ids=["flat", "alpha2beta1", "box", "reslrp"],
)
def test_other_presets(name: str, preset: Any) -> None:
    """Rules that leave the plain gradient: finite, balanced, a batch gives what singles give."""
    net = make(name)
    model = net.model.float()
    args = tuple(a.float() for a in net.args)
    x = torch.cat([args[0], args[0].flip(-1)])
    lrp = rp.LRP(model, preset())
    explanation = lrp.explain(x, *args[1:], target=net.select)
    (found,) = leaves(explanation.relevance)
    assert torch.isfinite(found).all()
    assert abs(explanation.audit.unexplained) < 1e-3 * max(found.abs().sum().item(), abs(explanation.audit.seed))
    (single,) = leaves(lrp.explain(args[0], *args[1:], target=net.select).relevance)
    assert_close(found[: len(single)], single, rtol=1e-4)


def test_mask_target_equals_its_callable() -> None:
    """A mask over the output selects what the callable selects."""
    net = make("unet3d")
    output = net.model(*net.args)
    mask = torch.zeros_like(output, dtype=torch.bool)
    mask[:, 1, 2:5, 1:6, 2:6] = True
    lrp = rp.LRP(net.model, rp.Zero())
    by_mask = lrp.explain(*net.args, target=mask).relevance
    by_function = lrp.explain(*net.args, target=net.select).relevance
    assert_close(by_mask, by_function, rtol=1e-10)
    assert by_mask.abs().max() > 0


@pytest.mark.parametrize("measure", ["norm", "squared", "dot", "cosine"])
def test_siamese_equals_untied_copy(measure: str) -> None:
    """The encoder that two inputs share is no different from two equal encoders."""
    net = make(f"siamese_{measure}")

    class Untied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            twin = make(f"siamese_{measure}").model
            self.one, self.two, self.net = net.model.encoder, twin.encoder, twin

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            codes = iter((self.one(a), self.two(b)))
            self.net.encoder = nn.Identity()
            a, b = codes
            return self.net(a, b)

    expected = rp.LRP(Untied().eval(), rp.EpsilonPlus()).explain(*net.args, target=net.select).relevance
    found = rp.LRP(net.model, rp.EpsilonPlus()).explain(*net.args, target=net.select).relevance
    for first, second in zip(found, expected, strict=True):
        assert_close(first, second, rtol=1e-10)


def test_complex_input() -> None:
    """Relevance of a complex input is real: ``Re(conj(x) g)``."""

    class Filter(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.fft.ifft(z * torch.linspace(1, 2, 8)).abs().sum(-1)

    z = torch.complex(draw(2, 8), draw(2, 8, seed=2))
    _, (expected,) = reference(Filter(), (z,), lambda y: y, None)
    found = rp.LRP(Filter().eval(), rp.Zero()).explain(z, target=lambda y: y).relevance
    assert_close(found, expected, rtol=1e-10)


@pytest.mark.parametrize("seeded", [False, True], ids=["value", "random relevance"])
@pytest.mark.parametrize("solver", ["solve", "solve_triangular"])
def test_solving_a_system(solver: str, seeded: bool) -> None:
    """Linear in the right-hand side; the matrix is a denominator and takes nothing."""
    settings = {"upper": False} if solver == "solve_triangular" else {}
    function = getattr(torch.linalg, solver)

    class Solve(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return function(a, b, **settings)

    a, b = draw(2, 3, 3).tril() + 3 * torch.eye(3), draw(2, 3, 4, seed=2)
    r = draw(2, 3, 4, seed=9) if seeded else None
    _, expected = reference(lambda a, b: function(a.detach(), b, **settings), (a, b), lambda y: y, r)
    lrp = rp.LRP(Solve().eval(), rp.Zero())
    found = lrp.explain(a, b, target=lambda y: y, seed="value" if r is None else r).relevance
    for first, second in zip(found, expected, strict=True):
        assert_close(first, second, rtol=1e-10)

    class Inverse(nn.Module):
        def forward(self, a: Tensor) -> Tensor:
            return function(a, torch.eye(3, dtype=a.dtype), **settings)

    with pytest.raises(rp.RelpropError, match="register_module"):
        rp.LRP(Inverse().eval(), rp.Zero()).explain(a, target=lambda y: y)
