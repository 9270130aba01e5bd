"""Relevance that can be differentiated: the true derivative of the relevance as a function of inputs and parameters.

The reference is a difference quotient of the relevance that is explained without a graph, by another way through the
engine.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.architectures import arch_models
from tests.concepts.nets import small
from tests.support import networks
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot
from tests.transformers import zoo_models


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in (value.values() if isinstance(value, dict) else value) for t in flat(v)]


def assert_derivative(
    model: nn.Module,
    lrp: rp.LRP,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Any,
    step: float = 1e-6,
    rtol: float = 1e-4,
    **options: Any,
) -> None:
    """Equal relevance with and without graph, and its derivative along one random direction of all parameters."""
    plain = flat(lrp.explain(*args, target=target, **options, **kwargs).relevance)
    e = lrp.explain(*args, target=target, create_graph=True, **options, **kwargs)
    assert e.audit.balanced
    found = flat(e.relevance)
    for a, b in zip(found, plain, strict=True):
        assert_close(a.detach(), b, 1e-7 if step > 1e-5 else 1e-10, "relevance")
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in plain]
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = sum((w * r).sum() for w, r in zip(weights, found))
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in grads)
    ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().abs().mean() for p in parameters]
    slope = sum((g * d).sum().item() for g, d in zip(grads, ways) if g is not None)

    def value(t: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, ways):
                p.add_(t * d)
        try:
            moved = flat(lrp.explain(*args, target=target, **options, **kwargs).relevance)
        finally:
            with torch.no_grad():
                for p, d in zip(parameters, ways):
                    p.sub_(t * d)
        return sum((w * r).sum().item() for w, r in zip(weights, moved))

    quotient = (value(step) - value(-step)) / (2 * step)
    assert slope == pytest.approx(quotient, rel=rtol, abs=1e-7)


PICTURE = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
COMPOSITES = {
    "epsilon": rp.Epsilon(1e-2),
    "zero": rp.Zero(),
    "distributed": rp.Epsilon(1e-2, bias="distribute"),
    "gamma": rp.Gamma(0.25),
    "gamma standard": rp.Gamma(0.25, variant="standard"),
    "z-plus": rp.ZPlus(),
    "epsilon alpha2 beta1 flat": rp.EpsilonAlpha2Beta1Flat(),
    "epsilon gamma box": rp.EpsilonGammaBox(-3, 3),
    "w-square": rp.WSquare(),
    "excitation": rp.ExcitationBackprop(),
    "residual": rp.ResLRP(),
    "deep taylor": rp.DeepTaylor(),
}
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], Any]] = {
    "residual": (networks.residual_net, (PICTURE,), 1),
    "gated": (networks.gated_net, (PICTURE,), 1),
    "two towers": (networks.two_towers, (PICTURE, PICTURE[:, 0, 0, :4]), 0),
    "u-net": (networks.unet, (PICTURE[:, :2],), (1, 3, 3)),
}


@pytest.mark.parametrize("composite", COMPOSITES)
def test_rules(composite: str) -> None:
    model = networks.residual_net()
    assert_derivative(model, rp.LRP(model, COMPOSITES[composite]), (PICTURE,), {}, 1)


@pytest.mark.parametrize("net", NETS)
def test_networks(net: str) -> None:
    make, args, target = NETS[net]
    model = make()
    assert_derivative(model, rp.LRP(model), args, {}, target)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # torch's own, for gcn_csr
@pytest.mark.parametrize("name", sorted(arch_models.FACTORIES))
def test_architectures(name: str) -> None:
    net = arch_models.make(name)
    assert_derivative(net.model, rp.LRP(net.model), net.args, {}, net.select)


@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "vit", "t5", "deberta_v2", "fnet", "swin_transformer", "llama", "mamba"]
)
def test_stock_models(name: str) -> None:
    case = zoo_models.make(name)
    model = case.model.double()
    kwargs = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in case.kwargs.items()}
    args = tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in case.args)
    rough = name in ("llama", "t5", "mamba")  # these norms run in float32 whatever the model's dtype
    assert_derivative(model, rp.LRP(model), args, kwargs, case.target, *((3e-4, 2e-3) if rough else ()))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both_ways", [False, True])
def test_recurrent(kind: type[nn.Module], both_ways: bool) -> None:
    torch.manual_seed(2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = kind(3, 4, num_layers=2, batch_first=True, bidirectional=both_ways)
            self.head = nn.Linear(8 if both_ways else 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layers(x)[0][:, -1])

    model = Net().double()
    assert_derivative(model, rp.LRP(model), (torch.randn(2, 5, 3, dtype=torch.float64),), {}, 1)


OPTIONS: dict[str, dict[str, Any]] = {
    "one": {"seed": "one"},
    "conditions": {"conditions": {"conv2": [0, 2]}},
    "conditions with the ways around": {"conditions": {"conv1": 1}, "exclude_parallel": False},
    "stop": {"stop_at": "(model).relu"},
    "start": {"start_at": "conv2"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(options: str) -> None:
    model, x, _ = small()
    given = dict(OPTIONS[options])
    target = (1, 2, 3) if "start_at" in given else 2
    assert_derivative(model, rp.LRP(model, rp.Gamma(0.25)), (x,), {}, target, **given)


def test_a_given_relevance_stays_as_it_is() -> None:
    """Relevance put in at the output is a constant: `g = R / y` follows the output."""
    model, x, relevance = small()
    assert_derivative(model, rp.LRP(model, rp.Epsilon(1e-2)), (x,), {}, relevance)


def test_by_the_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)).double()
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    for rule in (
        rp.Epsilon(1e-2),
        rp.Zero(),
        rp.Gamma(0.3),
        rp.AlphaBeta(2, 1, epsilon=1e-2),
        rp.ZBox(-3, 3),
        rp.WSquare(),
    ):
        lrp = rp.LRP(model, rule)

        def relevance(given: Tensor, lrp: rp.LRP = lrp) -> Tensor:
            return lrp.explain(given, target=1, create_graph=True).relevance

        assert torch.autograd.gradcheck(relevance, (x,), eps=1e-6, atol=1e-6)


def test_of_a_linear_model_by_hand() -> None:
    """R_j = x_j w_j, so dR_j/dw_j = x_j and dR_j/dx_j = w_j."""
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    e = rp.LRP(model, rp.Zero()).explain(x, target=0, create_graph=True)
    by_weight, by_input = torch.autograd.grad(e.relevance[0, 1], [model.weight, x])
    assert_close(by_weight, torch.tensor([[0.0, -2.0, 0.0]]).double())
    assert_close(by_input, torch.tensor([[0.0, 1.0, 0.0]]).double() * model.weight.detach())


class Cancelling(nn.Module):
    """A function of `a - b`."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.difference, self.function = nn.Linear(2, 1, bias=False).double(), function
        with torch.no_grad():
            self.difference.weight.copy_(torch.tensor([[1.0, -1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.difference(x))


#: f''(0) / 2, which is the derivative of f(x) / x at 0.
TURNS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "gelu": (functional.gelu, (2 * torch.pi) ** -0.5),  # the normal density at 0
    "gelu by tanh": (lambda x: functional.gelu(x, approximate="tanh"), (2 * torch.pi) ** -0.5),
    "silu": (functional.silu, 1 / 4),  # sigmoid'(0)
    "mish": (functional.mish, 8 / 25),  # tanh'(ln 2) sigmoid(0) = (1 - (3/5)^2) / 2
    "hardswish": (functional.hardswish, 1 / 6),  # x (x + 3) / 6
    "expm1": (torch.expm1, 1 / 2),
    "log1p": (torch.log1p, -1 / 2),
    "square": (torch.square, 1.0),
    "power": (lambda x: x**2, 1.0),
    "gelu by hand": (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), (2 * torch.pi) ** -0.5),
    "silu by hand": (lambda x: x / (1 + torch.exp(-x)), 1 / 4),
    "elu": (functional.elu, 0.0),  # 1/2 from the left, 0 from the right, which torch's own derivative takes
    **{
        f.__name__: (f, 0.0) for f in (torch.tanh, torch.sin, torch.atan, torch.asinh, torch.erf, functional.tanhshrink)
    },
    "relu6": (functional.relu6, 0.0),
    "softplus": (functional.softplus, 0.0),  # f(0) is no 0: all of it is a constant there
}


@pytest.mark.parametrize("name", TURNS)
def test_an_activation_at_zero(name: str) -> None:
    """R_a = a r(a - b), r(x) = f(x) / x. At a = b = 1, dR_a / db = -r'(0), whatever stands beside the zero."""
    function, turn = TURNS[name]
    x = torch.tensor([[1.0, 1.0], [1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    e = rp.LRP(Cancelling(function), rp.Zero()).explain(x, target=0, create_graph=True)
    (slope,) = torch.autograd.grad(e.relevance[:, 0].sum(), x)
    assert abs(slope[0, 1].item() + turn) < 1e-12
    half = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    (beside,) = torch.autograd.grad(function(half) / half, half)
    assert abs(slope[1, 1].item() + beside.item()) < 1e-12


def test_an_output_of_zero() -> None:
    """Whether relevance has grown too much is asked of values alone: torch warns of numbers taken from a graph."""
    x = torch.ones(1, 2, dtype=torch.float64)
    e = rp.LRP(Cancelling(torch.tanh), rp.Zero()).explain(x, target=0, create_graph=True)
    assert_close(e.relevance.detach(), torch.tensor([[1.0, -1.0]], dtype=torch.float64))


def test_layers_activations_and_output_are_differentiable_too() -> None:
    model, x, _ = small()
    e = rp.LRP(model, rp.EpsilonPlus()).explain(x, target=1, layers=["conv2"], create_graph=True)
    loss = (
        e.layers["conv2"].square().sum() + functional.cross_entropy(e.output, torch.tensor([1, 2])) + e.explained.sum()
    )
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    y = model(x)
    (by_hand,) = torch.autograd.grad(functional.cross_entropy(y, torch.tensor([1, 2])), model.head.bias)
    model.zero_grad()
    e = rp.LRP(model).explain(x, target=1, create_graph=True)
    functional.cross_entropy(e.output, torch.tensor([1, 2])).backward()
    assert_close(model.head.bias.grad, by_hand)


def test_the_model_is_left_as_it_was() -> None:
    model, x, _ = small()
    before = snapshot(model)
    rp.LRP(model, rp.EpsilonPlus()).explain(x, target=1, create_graph=True)
    assert_same_state(before, snapshot(model))


def test_nothing_is_kept_when_the_result_goes() -> None:
    model, x, _ = small()
    lrp = rp.LRP(model, rp.EpsilonPlus())
    gc.collect()
    gc.disable()
    try:
        e = lrp.explain(x, target=1, create_graph=True, layers="conv2")
        held = weakref.ref(e.activations["conv2"])
        e.relevance.sum().backward()
        del e
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whatever_the_mode_around_the_call(mode: Callable[[], Any]) -> None:
    model, x, _ = small()
    lrp = rp.LRP(model, rp.Epsilon(1e-2))
    with mode():
        inside = lrp.explain(x, target=1, create_graph=True, conditions={"conv1": 0})
    outside = lrp.explain(x, target=1, create_graph=True, conditions={"conv1": 0})
    found, expected = (
        torch.autograd.grad(e.relevance.square().sum(), model.conv2.weight)[0] for e in (inside, outside)
    )
    assert_close(found, expected, 1e-12)


def test_what_has_no_derivative_is_refused() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.map(x)
            y[:, :2].sigmoid_()
            return y

    x = torch.randn(2, 4)
    with pytest.raises(rp.ModelStateError, match=r"create_graph=True cannot follow a write into a part.*'\(model\)'"):
        rp.LRP(Part()).explain(x, target=0, create_graph=True)

    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return _Strange.apply(x)

    with pytest.raises(rp.UnknownOperationError):
        rp.LRP(Hidden()).explain(x, target=0, create_graph=True)


class _Strange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def test_a_loss_on_relevance_trains_the_network_away_from_an_artefact() -> None:
    """Feature 0 gives the class away in training and is noise in the test: a penalty on its relevance mends it."""
    torch.manual_seed(0)
    y = torch.randint(0, 2, (256,))
    x = torch.randn(256, 6)
    x[:, 1] += 1.5 * (2 * y - 1)
    x[:, 0] = 3.0 * (2 * y - 1)
    clean = x.clone()
    clean[:, 0] = 3.0 * (2 * torch.randint(0, 2, (256,)) - 1)

    def accuracy(penalty: float) -> float:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
        lrp, optimizer = rp.LRP(model, rp.Epsilon(1e-2)), torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(60):
            optimizer.zero_grad()
            e = lrp.explain(x, create_graph=True)
            loss = functional.binary_cross_entropy_with_logits(e.output, y.float())
            loss = loss + penalty * e.relevance[:, 0].square().mean()
            loss.backward()
            optimizer.step()
        return ((model(clean) > 0) == (y == 1)).float().mean().item()

    assert accuracy(0.0) < 0.75 < 0.88 < accuracy(3.0)
