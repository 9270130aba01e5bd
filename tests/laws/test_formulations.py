"""The same function written in two ways is explained in one way."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.support.compare import assert_close
from tests.support.networks import ready

RULES = {
    "zero": rp.Zero(),
    "epsilon": rp.Epsilon(1e-3),
    "gamma": rp.Gamma(0.25),
    "gamma-standard": rp.Gamma(0.25, variant="standard"),
    "z-plus": rp.ZPlus(),
    "alpha2-beta1": rp.AlphaBeta(2, 1),
    "w-square": rp.WSquare(),
    "flat": rp.Flat(),
    "z-box": rp.ZBox(-5.0, 5.0),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def same(first: nn.Module, second: nn.Module, x: Tensor, composite: object, rtol: float = 1e-9) -> None:
    """Both give the same output, and the same relevance for a random one at the output."""
    output = first(x.clone()).detach()
    assert_close(second(x.clone()).detach(), output, 1e-12, "the two are one function")
    relevance = torch.randn_like(output)
    found = [rp.LRP(model, composite).explain(x, target=relevance).relevance for model in (first, second)]
    assert_close(found[0], found[1], rtol)
    assert found[0].abs().sum() > 0


# -- batch norm --

MERGED: dict[str, tuple[Callable[[], nn.Module], type[nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d, (2, 6)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, stride=2, bias=False), nn.BatchNorm2d, (2, 6, 5)),
    "conv2d-bias": (lambda: nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d, (2, 4, 4)),
    "conv2d-grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d, (4, 4, 4)),
    "conv2d-depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d, (4, 4, 4)),
    "conv2d-circular": (
        lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d,
        (2, 4, 4),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), nn.BatchNorm3d, (2, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 2, stride=2), nn.BatchNorm2d, (2, 3, 3)),
    "transposed-grouped": (lambda: nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d, (4, 3, 3)),
    "linear": (lambda: nn.Linear(5, 4), nn.BatchNorm1d, (5,)),
    "linear-no-bias": (lambda: nn.Linear(5, 4, bias=False), nn.BatchNorm1d, (5,)),
}


def fused(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """The layer whose weight and bias are those of the two together, found by asking the two."""
    layer = copy.deepcopy(layer)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
    shape = [1] * layer.weight.ndim
    weight = layer.weight
    with torch.no_grad():
        if isinstance(layer, nn.ConvTranspose2d):
            groups = layer.groups
            shape[1] = -1
            parts = [w * s.view(shape) for w, s in zip(weight.chunk(groups, 0), scale.chunk(groups))]
            layer.weight = nn.Parameter(torch.cat(parts, 0))
        else:
            shape[0] = -1
            layer.weight = nn.Parameter(weight * scale.view(shape))
        layer.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
    return layer


@every_rule
@pytest.mark.parametrize("name", MERGED)
def test_batch_norm_is_merged(name: str, rule: str) -> None:
    make, norm_type, in_shape = MERGED[name]
    layer, norm = make(), norm_type(4)
    two = ready(nn.Sequential(layer, norm))
    with torch.no_grad():
        norm.weight[1] *= -1  # a scale may turn the sign of a channel
    x = torch.randn(3, *in_shape, dtype=torch.float64)
    same(two, fused(layer, norm), x, RULES[rule], 1e-8)
    same(nn.Sequential(two, nn.ReLU()), nn.Sequential(fused(layer, norm), nn.ReLU()), x, RULES[rule], 1e-8)


class FunctionalNorm(nn.Module):
    def __init__(self, layer: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        z = functional.conv2d(x, self.layer.weight, self.layer.bias)
        return functional.batch_norm(z, n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)


@every_rule
def test_functional_batch_norm_is_merged(rule: str) -> None:
    layer, norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
    ready(nn.Sequential(layer, norm))
    same(FunctionalNorm(layer, norm), fused(layer, norm), torch.randn(2, 2, 5, 5).double(), RULES[rule], 1e-8)


class ReadTwice(nn.Module):
    """The convolution's output is read by the batch norm and by something else."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return torch.cat([z, self.norm(z)], 1)


class ReadOnce(nn.Module):
    """The same with one layer for each reader."""

    def __init__(self, layer: nn.Module, merged: nn.Module) -> None:
        super().__init__()
        self.layer, self.merged = layer, merged

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(x), self.merged(x)], 1)


@every_rule
def test_other_readers_keep_the_unmerged_map(rule: str) -> None:
    layer, norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
    first = ready(ReadTwice(layer, norm))
    same(first, ReadOnce(layer, fused(layer, norm)), torch.randn(2, 2, 5, 5).double(), RULES[rule], 1e-8)


@every_rule
def test_not_merged_over_a_sequence(rule: str) -> None:
    """Linear, then BatchNorm1d on (N, C, L): its channels are not the layer's features."""
    layer, norm = nn.Linear(5, 4), nn.BatchNorm1d(3)
    two = ready(nn.Sequential(layer, norm))
    x, relevance = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    found = rp.LRP(two, RULES[rule]).explain(x, target=relevance).relevance
    hidden = layer(x).detach()
    middle = rp.LRP(norm, rp.Zero()).explain(hidden, target=relevance).relevance
    assert_close(found, rp.LRP(layer, RULES[rule]).explain(x, target=middle).relevance, 1e-9)


# -- functional, module, method --


class Head(nn.Module):
    """Two layers and what stands between; `how` says how the activation and the head are written."""

    def __init__(self, activation: Callable[[Tensor], Tensor], head: str = "linear") -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4, bias=head == "linear with bias")
        self.activation, self.head = activation, head

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.first(x))
        w = self.last.weight
        if self.head.startswith("linear"):
            return self.last(h)
        if self.head == "einsum":
            return torch.einsum("ni,oi->no", h, w)
        if self.head == "einsum with ellipsis":
            return torch.einsum("...i,oi->...o", h, w)
        if self.head == "matmul":
            return h @ w.t()
        if self.head == "matmul of a stored transpose":
            return torch.matmul(h, w.t().contiguous())
        if self.head == "left matmul":
            return (w @ h.t()).t()
        if self.head == "bmm":
            return torch.bmm(h[:, None], w.t().expand(h.shape[0], -1, -1))[:, 0]
        if self.head == "convolution":
            return functional.conv1d(h[:, :, None], w[:, :, None])[:, :, 0]
        if self.head == "functional linear":
            return functional.linear(h, w)
        raise ValueError(self.head)


def heads(first: tuple[Callable, str], second: tuple[Callable, str]) -> tuple[nn.Module, nn.Module]:
    one, two = ready(Head(*first)), ready(Head(*second))
    two.load_state_dict(one.state_dict())
    return one, two


SPELLINGS: dict[str, tuple[Callable, Callable]] = {
    "gelu": (nn.GELU(), functional.gelu),
    "relu": (nn.ReLU(), torch.relu),
    "relu method": (nn.ReLU(), lambda x: x.relu()),
    "relu in place": (nn.ReLU(), nn.ReLU(inplace=True)),
    "relu_ method": (nn.ReLU(), lambda x: x.relu_()),
    "relu of clamp": (nn.ReLU(), lambda x: x.clamp_min(0)),
    "relu of threshold": (nn.ReLU(), lambda x: functional.threshold(x, 0.0, 0.0)),
    "silu": (nn.SiLU(), functional.silu),
    "silu in place": (nn.SiLU(), nn.SiLU(inplace=True)),
    "tanh": (nn.Tanh(), torch.tanh),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "sigmoid of special": (nn.Sigmoid(), torch.special.expit),
    "softmax": (nn.Softmax(-1), lambda x: torch.softmax(x, 1)),
    "leaky relu": (nn.LeakyReLU(0.1), lambda x: functional.leaky_relu(x, 0.1)),
    "hard swish": (nn.Hardswish(), functional.hardswish),
    "identity": (nn.Identity(), lambda x: x),
    "dropout": (nn.Dropout(0.5).eval(), lambda x: x),
    "multiplied by one": (nn.Identity(), lambda x: 1.0 * x),
}


@every_rule
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_an_activation(name: str, rule: str) -> None:
    one, two = heads(*((activation, "linear with bias") for activation in SPELLINGS[name]))
    same(one, two, torch.randn(3, 6, dtype=torch.float64), RULES[rule])


@every_rule
@pytest.mark.parametrize(
    "head",
    [
        "einsum",
        "einsum with ellipsis",
        "matmul",
        "matmul of a stored transpose",
        "left matmul",
        "bmm",
        "convolution",
        "functional linear",
    ],
)
def test_heads(head: str, rule: str) -> None:
    one, two = heads((torch.relu, "linear"), (torch.relu, head))
    # a rule alone goes to linear maps of any spelling
    same(one, two, torch.randn(3, 6, dtype=torch.float64), RULES[rule])


# -- modules used twice --


class Tied(nn.Module):
    """One layer called twice with different inputs, or two layers with equal weights."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first if tied else nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


@every_rule
def test_tied_module(rule: str) -> None:
    tied, untied = ready(Tied(True)), ready(Tied(False))
    untied.load_state_dict(tied.state_dict())
    same(tied, untied, torch.randn(3, 4, dtype=torch.float64), RULES[rule])


class Siamese(nn.Module):
    """One convolution on two pictures of different size."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 3, 3)
        self.right = self.left if tied else nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        towers = [self.left(x), self.right(x[:, :, 1:, :5])]
        return self.head(torch.cat([torch.relu(t).amax((2, 3)) for t in towers], 1))


@every_rule
def test_siamese(rule: str) -> None:
    tied, untied = ready(Siamese(True)), ready(Siamese(False))
    untied.load_state_dict(tied.state_dict())
    same(tied, untied, torch.randn(2, 2, 6, 6, dtype=torch.float64), RULES[rule])


def test_entry_of_each_tower() -> None:
    """An entry rule reaches both towers, and every call of a tied one."""
    composite = rp.Composite([(rp.Entry(rp.Kind("conv")), rp.Flat()), (rp.Kind("conv"), rp.ZPlus())])
    tied, untied = ready(Siamese(True)), ready(Siamese(False))
    untied.load_state_dict(tied.state_dict())
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    same(tied, untied, x, composite)
    flat = rp.Composite([(rp.Kind("conv"), rp.Flat())])
    relevance = torch.randn(2, 3, dtype=torch.float64)
    found = [rp.LRP(tied, c).explain(x, target=relevance).relevance for c in (composite, flat)]
    assert_close(found[0], found[1], 1e-12)


class OneReLU(nn.Module):
    """One ReLU object in two blocks, or one for each."""

    def __init__(self, shared: bool, inplace: bool) -> None:
        super().__init__()
        relu = nn.ReLU(inplace)
        self.one = nn.Sequential(nn.Linear(4, 5), relu)
        self.two = nn.Sequential(nn.Linear(5, 5), relu if shared else nn.ReLU(inplace))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)))


@every_rule
@pytest.mark.parametrize("inplace", [False, True])
def test_one_relu_object_in_two_blocks(inplace: bool, rule: str) -> None:
    shared, single = ready(OneReLU(True, inplace)), ready(OneReLU(False, False))
    single.load_state_dict(shared.state_dict())
    same(shared, single, torch.randn(3, 4, dtype=torch.float64), RULES[rule])
