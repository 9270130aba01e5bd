"""Activation checkpointing, half precision, inference mode: the same relevance by other roads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import relprop as rp
from relprop.record.nodes import NODES
from tests.architectures.arch_models import draw, make
from tests.reference.recipe import fill
from tests.support.compare import assert_close
from tests.support.networks import Of


class Deep(nn.Module):
    """Residual blocks with attention, norms and gates; ``way`` says how they are run."""

    def __init__(self, way: str = "plain") -> None:
        super().__init__()
        self.way = way
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "sequential":
            x = checkpoint_sequential(nn.Sequential(*self.blocks), 2, x, use_reentrant=False)
        else:
            for block in self.blocks:
                if self.way == "plain":
                    x = block(x)
                else:
                    x = checkpoint(block, x, use_reentrant=self.way == "reentrant")
        return self.head(x.mean(1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.up, self.down = nn.Linear(8, 24), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        x = x + self.attention(n, n, n, need_weights=False)[0]
        x = x + torch.relu_(self.conv(x.mT)).mT
        gate, up = self.up(x).chunk(2, -1)
        return x + self.down(nn.functional.silu(gate) * up)


@pytest.mark.parametrize("preset", [rp.AttnLRP, rp.EpsilonPlusFlat, rp.EpsilonAlpha2Beta1])
@pytest.mark.parametrize("way", ["plain", "not reentrant", "reentrant", "sequential"])
def test_checkpointing(way: str, preset: Any) -> None:
    model, plain = Deep(way).double(), Deep().double()
    fill(model)
    plain.load_state_dict(model.state_dict())
    x, r = draw(2, 5, 8), draw(2, 3, seed=9)
    expected = rp.LRP(plain.eval(), preset()).explain(x, target=r)
    found = rp.LRP(model, preset()).explain(x, target=r)
    assert_close(found.output, expected.output, rtol=1e-12)
    assert_close(found.relevance, expected.relevance, rtol=1e-9)


@pytest.mark.parametrize("way", ["not reentrant", "reentrant"])
def test_checkpointed_blocks_are_computed_again(way: str) -> None:
    """Once forward and once backward, instead of keeping their activations; and no parameter gets a gradient."""
    model = fill(Deep(way))
    calls = []
    for block in model.blocks:
        block.up.register_forward_pre_hook(lambda module, args: calls.append(module))
    rp.LRP(model, rp.AttnLRP()).explain(draw(2, 5, 8, dtype=torch.float32), target=1)
    assert len(calls) == 2 * len(model.blocks)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["squeeze_excite", "detector", "norms", "gated", "unet3d"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("preset", [rp.Zero, rp.EpsilonPlusFlat], ids=["zero", "flat"])
def test_half_precision(name: str, dtype: torch.dtype, preset: Any) -> None:
    """Denominators are computed in float32; what is left is the rounding of the model's own numbers."""
    net = make(name)
    lrp = rp.LRP(net.model.float(), preset())
    args = tuple(a.float() for a in net.args)
    expected = lrp.explain(*args, target=net.select).relevance
    model = net.model.to(dtype)
    explanation = rp.LRP(model, preset()).explain(*(a.to(dtype) for a in args), target=net.select)
    found = explanation.relevance
    assert torch.isfinite(found).all()
    cosine = nn.functional.cosine_similarity(found.double().flatten(), expected.double().flatten(), 0)
    # bfloat16 keeps three digits of the model's own numbers: the detached oracle itself gets 0.92 on `gated` in it
    assert cosine > (0.98 if dtype == torch.float16 or name != "gated" else 0.9), cosine


def test_overflow_in_half_precision_names_the_site() -> None:
    class Big(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.wide, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.wide(self.first(x))) * 0.0)

    model = fill(Big())
    with torch.no_grad():
        model.wide.weight.fill_(6e4)
        model.first.bias.fill_(50.0)
    with pytest.raises(rp.RelpropError, match="wide"):
        rp.LRP(model.half(), rp.Zero()).explain(draw(1, 4, dtype=torch.float16), target=0)


def test_under_inference_mode() -> None:
    """A caller may stand under no_grad or inference_mode, with tensors made there."""
    net = make("gated")
    expected = rp.LRP(net.model, rp.Zero()).explain(*net.args, target=net.select).relevance
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            args = tuple(a.clone() for a in net.args)
            found = rp.LRP(net.model, rp.Zero()).explain(*args, target=net.select).relevance
            assert_close(found.clone(), expected, rtol=1e-12)


@pytest.mark.parametrize("preset", [rp.EpsilonPlus(), rp.UniformEpsilon(), rp.AttnLRP()], ids=lambda p: p.name)
@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_checkpointed_rectifier(layer: str, preset: Any) -> None:
    """A ReLU that would become part of its map's site, in a segment that is computed again."""
    make = (lambda: nn.Conv2d(3, 3, 3, padding=1)) if layer == "conv" else (lambda: nn.Linear(6, 6))

    class Segments(nn.Module):
        def __init__(self, checkpointed: bool) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Sequential(make(), nn.ReLU()) for _ in range(3))
            self.checkpointed = checkpointed

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = torch.utils.checkpoint.checkpoint(part, x, use_reentrant=False) if self.checkpointed else part(x)
            return x.flatten(1)

    plain, segments = (fill(Segments(c).double()) for c in (False, True))
    x = draw(2, 3, 6, 6)
    expected, found = (rp.LRP(m, preset).explain(x, target=5).relevance for m in (plain, segments))
    assert_close(found, expected, rtol=1e-10)


class _Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * g * ctx.saved_tensors[0] ** 2


class Segment(nn.Module):
    """A function of a hidden layer, in a segment that may be computed again."""

    def __init__(self, function: Any, way: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), Of(function))
        self.head, self.way = nn.Linear(4, 2), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "plain":
            return self.head(self.inner(x))
        return self.head(checkpoint(self.inner, x, use_reentrant=self.way == "reentrant"))


def _determinant(h: Tensor) -> Tensor:
    return h + torch.linalg.det(h.view(-1, 2, 2)).unsqueeze(1)


def _nothing_of_it(h: Tensor) -> Tensor:
    torch.linalg.det(h.view(-1, 2, 2))
    return h.tanh()


@pytest.mark.parametrize("way", ["not reentrant", "reentrant"])
@pytest.mark.parametrize(
    ("function", "named"),
    [(_determinant, "'linalg_det'.*in module 'inner.1'"), (_Cubed.apply, "_CubedBackward.*inner.1")],
)
def test_an_operation_without_a_rule_that_is_computed_again(function: Any, named: str, way: str) -> None:
    plain, model = (fill(Segment(function, w).double()) for w in ("plain", way))
    x = draw(3, 4)
    with pytest.raises(rp.UnknownOperationError, match=named):
        rp.LRP(model, rp.Zero()).explain(x, target=1)
    for targets in (1, [0, 1, 1]):  # as often as it is computed, it is named once
        expected, found = (rp.LRP(m, rp.Zero()).explain(x, target=targets, unknown="gradient") for m in (plain, model))
        assert_close(found.relevance, expected.relevance, rtol=1e-12)
        assert found.audit.native == expected.audit.native and len(found.audit.native) == 1


class Nested(nn.Module):
    """Blocks in a segment of a segment."""

    def __init__(self, outer: bool | None, inner: bool | None) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(4)), nn.Linear(8, 3)
        self.outer, self.inner = outer, inner

    def run(self, reentrant: bool | None, part: Any, *args: Any) -> Tensor:
        return part(*args) if reentrant is None else checkpoint(part, *args, use_reentrant=reentrant)

    def part(self, x: Tensor, first: int) -> Tensor:
        for block in self.blocks[first : first + 2]:
            x = self.run(self.inner, block, x)
        return torch.tanh(x)

    def forward(self, x: Tensor) -> Tensor:
        for first in (0, 2):
            x = self.run(self.outer, self.part, x, first)
        return self.head(x.mean(1))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # of torch, without us too
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize("preset", [rp.AttnLRP(), rp.EpsilonPlus()], ids=str)
def test_a_checkpoint_in_a_checkpoint(preset: Any, reentrant: bool) -> None:
    plain, model = fill(Nested(None, None).double()), fill(Nested(reentrant, reentrant).double())
    expected, found = (rp.LRP(m, preset).explain(draw(2, 5, 8), target=1) for m in (plain, model))
    assert_close(found.relevance, expected.relevance, rtol=1e-10)
    assert found.audit.bias == pytest.approx(expected.audit.bias, rel=1e-9)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("outer", [False, True])
def test_checkpoints_of_two_kinds(outer: bool) -> None:
    with pytest.raises(rp.ModelStateError, match="use one kind"):
        rp.LRP(fill(Nested(outer, not outer).double()), rp.AttnLRP()).explain(draw(2, 5, 8), target=1)


@pytest.mark.parametrize("way", ["not reentrant", "reentrant"])
def test_what_does_not_reach_the_output_needs_no_rule(way: str) -> None:
    plain, model = (fill(Segment(_nothing_of_it, w).double()) for w in ("plain", way))
    expected, found = (rp.LRP(m, rp.Zero()).explain(draw(3, 4), target=1).relevance for m in (plain, model))
    assert_close(found, expected, rtol=1e-12)


def test_a_registered_function_that_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NODES, "_pulls", dict(NODES._pulls))
    rp.register_function(_Cubed, lambda node, g: g * node.saved_tensors[0] ** 2)
    plain, model = (fill(Segment(_Cubed.apply, w).double()) for w in ("plain", "reentrant"))
    expected, found = (rp.LRP(m, rp.Zero()).explain(draw(3, 4), target=1) for m in (plain, model))
    assert_close(found.relevance, expected.relevance, rtol=1e-12)
    assert found.audit.balanced and not found.audit.native
    once = fill(Segment(_Cubed.apply, "not reentrant").double())
    with pytest.raises(rp.ModelStateError, match="_CubedBackward: .*use_reentrant=True"):
        rp.LRP(once, rp.Zero()).explain(draw(3, 4), target=1)
