"""Relevance in a basis: sums, known frequencies, explicit matrices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts.virtual import DFT, STFT, Basis, Matrix, explain_in
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot

F64 = torch.float64


def net(length: int = 64, channels: int = 2) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv1d(channels, 4, 5, padding=2), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * (length - 2), 3),
    ).double().eval()  # fmt: skip


def images() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double().eval()


COMPOSITES = [rp.Zero(), rp.Epsilon(0.1), rp.EpsilonPlus(), rp.EpsilonAlpha2Beta1(), rp.Gamma(0.5)]
BASES: list[Any] = [
    DFT(),
    STFT(16),
    STFT(16, 8, "half-sine"),
    STFT(15, 5, "rectangle"),
    STFT(8, 2, torch.linspace(0.5, 1.5, 8)),
    Matrix(torch.randn(64, 64, dtype=F64, generator=torch.Generator().manual_seed(0))),
    Matrix(torch.randn(128, 128, dtype=F64, generator=torch.Generator().manual_seed(0)), dim=None),
]


@pytest.mark.parametrize("composite", COMPOSITES, ids=str)
@pytest.mark.parametrize("basis", BASES, ids=lambda b: type(b).__name__)
def test_relevance_sums_to_the_same_value(basis: Basis, composite: Any) -> None:
    x = torch.randn(3, 2, 64, dtype=F64)
    lrp = rp.LRP(net(), composite)
    e, plain = explain_in(basis, lrp, x, target=1), lrp.explain(x, target=1)
    assert_close(e.relevance.flatten(1).sum(1), plain.relevance.flatten(1).sum(1), 1e-9)
    assert_close(e.output, plain.output, 1e-10)
    assert e.audit.balanced and not e.relevance.is_complex()
    assert e.relevance.shape == e.inputs.shape == basis.analyse(x).shape


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_dft_against_the_matrix_of_cosines(length: int) -> None:
    """x_n = sum_k w_k (re_k cos(2 pi k n / T) - im_k sin(...)) / sqrt(T), w_k = 1 for k = 0, T/2 and else 2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(length, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = torch.randn(2, 1, length, dtype=F64)
    e = explain_in(DFT(), rp.LRP(model, rp.Zero()), x, target=0)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)  # LRP-0 of a ReLU network
    expected = torch.zeros(2, 1, length // 2 + 1, dtype=F64)
    for k in range(length // 2 + 1):
        turn = [2 * math.pi * k * n / length for n in range(length)]
        cos, sin = (torch.tensor([f(t) for t in turn], dtype=F64) for f in (math.cos, math.sin))
        weight = 1 if k == 0 or 2 * k == length else 2
        re, im = (x * cos).sum(-1), -(x * sin).sum(-1)
        expected[..., k] = weight / length * (re * (g * cos).sum(-1) - im * (g * sin).sum(-1))
    assert_close(e.relevance, expected, 1e-10)


def test_matrix_against_the_dense_inverse() -> None:
    a = torch.randn(9, 9, dtype=F64)
    model = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x = torch.randn(4, 9, dtype=F64)
    e = explain_in(Matrix(a), rp.LRP(model, rp.Zero()), x, target=1)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    assert_close(e.relevance, (x @ a.T) * torch.linalg.solve(a.T, g.T).T, 1e-9)


def test_a_complex_matrix_is_the_full_transform() -> None:
    """The DFT as a matrix of all frequencies: mirror images together are the half spectrum."""
    fourier = torch.fft.fft(torch.eye(8, dtype=torch.complex128), norm="ortho")
    x = torch.randn(2, 1, 8, dtype=F64)
    lrp = rp.LRP(nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2)).double(), rp.Zero())
    full = explain_in(Matrix(fourier), lrp, x, target=0).relevance
    half = explain_in(DFT(), lrp, x, target=0).relevance
    folded = full[..., :5].clone()
    folded[..., 1:4] += full[..., 5:].flip(-1)
    assert_close(half, folded, 1e-10)


def test_a_filter_has_its_frequency() -> None:
    """A model that reads one frequency gives that one all relevance, though every sample has some."""
    turn = 2 * math.pi * 5 * torch.arange(64, dtype=F64) / 64
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([turn.cos(), turn.sin()]))
    x = torch.randn(3, 1, 64, dtype=F64)
    e = explain_in(DFT(), rp.LRP(model, rp.Zero()), x, target=0)
    others = [k for k in range(33) if k != 5]
    assert e.relevance[..., others].abs().max() < 1e-12
    assert_close(e.relevance[..., 5].flatten(), model(x)[:, 0].detach(), 1e-10)


def test_stft_says_when() -> None:
    """A model that reads the second half has no relevance in windows of the first."""

    class SecondHalf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., 128:].square().sum(-1)

    x = torch.randn(1, 1, 256, dtype=F64)
    basis = STFT(16, 4)
    e = explain_in(basis, rp.LRP(SecondHalf(), rp.Zero()), x, target=0)
    early = basis.times(e.relevance.shape[-1]) <= 128 - 9  # windows that end before
    assert e.relevance[..., early].abs().max() == 0 and e.relevance[..., ~early].abs().sum() > 0


def test_images() -> None:
    x = torch.randn(2, 1, 8, 8, dtype=F64)
    lrp = rp.LRP(images(), rp.EpsilonPlus())
    e = explain_in(DFT((-2, -1)), lrp, x, target=2)
    assert e.relevance.shape == (2, 1, 8, 5)
    assert_close(e.relevance.flatten(1).sum(1), lrp.explain(x, target=2).relevance.flatten(1).sum(1), 1e-9)


def test_complex_inputs() -> None:
    class Power(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.real[:, :3] + x.imag[:, 3:6]

    x = torch.randn(2, 8, dtype=torch.complex128)
    lrp = rp.LRP(Power(), rp.Zero())
    fourier = torch.fft.fft(torch.eye(8, dtype=torch.complex128), norm="ortho")
    e, same = explain_in(DFT(), lrp, x, target=1), explain_in(Matrix(fourier), lrp, x, target=1)
    assert e.relevance.shape == (2, 8)
    assert_close(e.relevance.sum(1), lrp.explain(x, target=1).relevance.sum(1), 1e-10)
    assert_close(same.relevance, e.relevance, 1e-10)


def test_selectors_and_layers_keep_their_paths() -> None:
    model, x = net(), torch.randn(2, 2, 64, dtype=F64)
    rows = [(rp.Entry(), rp.Gamma(0.3)), (rp.Name("2"), rp.ZPlus()), (rp.Kind("linear"), rp.Epsilon(1e-3))]
    lrp = rp.LRP(model, rows)
    before = snapshot(model)
    e, plain = (f(x, target=0, layers=["2"]) for f in (lambda *a, **k: explain_in(DFT(), lrp, *a, **k), lrp.explain))
    assert_same_state(before, snapshot(model))
    assert_close(e.layers["2"], plain.layers["2"], 1e-9)
    assert str(e.plan) == str(plain.plan), "the virtual layer is no site"


def test_the_preset_is_chosen_as_without() -> None:
    lrp, x = rp.LRP(net()), torch.randn(2, 2, 64, dtype=F64)
    assert explain_in(STFT(8), lrp, x).plan.composite == lrp.explain(x).plan.composite


def test_further_inputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, *, shift: Tensor) -> Tensor:
            return (x.flatten(1) + shift) @ scale

    x, scale = torch.randn(2, 1, 8, dtype=F64), torch.randn(8, 3, dtype=F64)
    shift = torch.randn(8, dtype=F64)
    lrp = rp.LRP(Two(), rp.Zero())
    e = explain_in(DFT(), lrp, x, scale, shift=shift, target=0, wrt=0)
    plain = lrp.explain(x, scale, shift=shift, target=0, wrt=0)
    assert_close(e.relevance.sum((1, 2)), plain.relevance.sum((1, 2)), 1e-9)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matrix(torch.ones(3, 3)), "no inverse to rely on"),
        (lambda: Matrix(torch.ones(3, 4)), r"must be square, got torch.float32 of shape \(3, 4\)"),
        (lambda: Matrix(torch.eye(3) / 0), "NaN or infinity"),
        (lambda: Matrix(torch.eye(3, dtype=torch.int64)), "got torch.int64"),
        (lambda: STFT(16, 16), "leave samples without weight"),  # hann is 0 at its first sample
        (lambda: STFT(16, 20), "hop lie in 1 to n_fft"),
        (lambda: STFT(16, window="hamm"), 'window must be "hann"'),
        (lambda: STFT(16, window=torch.ones(4)), "must hold 16 weights"),
        (lambda: DFT(-1), "must be a tuple of axes"),  # type: ignore[arg-type]
    ],
)
def test_bad_bases(make: Any, message: str) -> None:
    with pytest.raises(rp.InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("basis", "x", "message"),
    [
        (Matrix(torch.eye(5).double()), torch.randn(1, 2, 64, dtype=F64), "stands for 5 entries.*has 64 along axis -1"),
        (DFT((3,)), torch.randn(1, 2, 64, dtype=F64), "axis 3 is none of an input"),
        (DFT((0,)), torch.randn(1, 2, 64, dtype=F64), "or its samples"),
        (STFT(200), torch.randn(1, 2, 64, dtype=F64), "too short"),
        (DFT(), torch.arange(64)[None, None], "got torch.int64"),
        (DFT(), torch.randn(64, dtype=F64), "an axis of samples"),
        (DFT(), torch.randn(1, 2, 64).half(), "not found in torch.float16"),
    ],
)
def test_bad_inputs(basis: Basis, x: Tensor, message: str) -> None:
    with pytest.raises(rp.InputError, match=message):
        explain_in(basis, rp.LRP(net(), rp.Zero()), x, target=0)


def test_rules_that_give_to_zeros() -> None:
    x = torch.randn(1, 2, 64, dtype=F64)
    lrp = rp.LRP(net(), rp.EpsilonPlusFlat())
    whole = lrp.explain(x, target=0).relevance.sum()
    assert explain_in(DFT(), lrp, x, target=0).relevance.sum() == pytest.approx(float(whole), rel=1e-6)
    x[0, 0, 3:5] = 0
    with pytest.raises(rp.InputError, match="the input has 2 of them"):
        explain_in(DFT(), lrp, x, target=0)


def test_a_basis_that_is_none() -> None:
    class Halved(Basis):
        def analyse(self, x: Tensor) -> Tensor:
            return x * 2

        def synthesise(self, c: Tensor, like: Tensor) -> Tensor:
            return c

    with pytest.raises(rp.InputError, match="does not give the input back"):
        explain_in(Halved(), rp.LRP(net(), rp.Zero()), torch.randn(1, 2, 64, dtype=F64), target=0)


def test_nothing_is_left_behind() -> None:
    from relprop.record.nodes import NODES

    before = len(NODES._modules)
    with pytest.raises(rp.InputError, match="out of range"):
        explain_in(DFT(), rp.LRP(net(), rp.Zero()), torch.randn(1, 2, 64, dtype=F64), target=9)
    assert len(NODES._modules) == before
