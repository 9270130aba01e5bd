"""The metrics: by hand, by an explicit loop, and beside pnpxai and Quantus."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.metrics import (
    Gain,
    area_between_curves,
    flipping_curve,
    relative_conservation_error,
    symmetric_relevance_gain,
)


class Weighted(nn.Module):
    """A linear score and its negative."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.weights
        return torch.stack([score, -score], 1)


def test_a_curve_by_hand() -> None:
    """Weights (3, 1, -2) at x = 1: taking away 3, 1, -2 in that order leaves 2, -1, -2, 0."""
    model, x = Weighted(3, 1, -2), torch.ones(1, 3)
    relevance = torch.tensor([[3.0, 1.0, -2.0]])
    most = flipping_curve(model, x, relevance, 0, steps=3, score="logit")
    least = flipping_curve(model, x, relevance, 0, "least", steps=3, score="logit")
    assert most.tolist() == [[2, -1, -2, 0]] and least.tolist() == [[2, 4, 3, 0]]
    assert area_between_curves(model, x, relevance, 0, steps=3, score="logit").tolist() == [2.5]
    # trapezoids over thirds: most (2-1)/2 + (-1-2)/2 + (-2+0)/2 = -2, least 3 + 3.5 + 1.5 = 8, a third of each
    found = symmetric_relevance_gain(model, x, relevance, 0, steps=3, score="logit")
    torch.testing.assert_close(found, torch.tensor([10 / 3]))
    # the order of relevance reversed turns the sign
    torch.testing.assert_close(symmetric_relevance_gain(model, x, -relevance, 0, steps=3, score="logit"), -found)


def explicit(
    model: nn.Module, x: Tensor, relevance: Tensor, target: int, order: str, steps: int, patch: int
) -> list[Any]:
    """The same as a loop over samples, steps and features."""
    curves = []
    for image, r in zip(x, relevance, strict=True):
        height, width = image.shape[1:]
        cells = [(i, j) for i in range(0, height, patch) for j in range(0, width, patch)]
        strength = {c: float(r[:, c[0] : c[0] + patch, c[1] : c[1] + patch].sum()) for c in cells}
        cells.sort(key=lambda c: strength[c] * (-1 if order == "most" else 1))
        curve = []
        for step in range(steps + 1):
            changed = image.clone()
            for i, j in cells[: round(len(cells) * step / steps)]:
                changed[:, i : i + patch, j : j + patch] = 0.5
            curve.append(model(changed[None]).softmax(1)[0, target].item())
        curves.append(curve)
    return curves


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_images_by_an_explicit_loop(patch: int, batch_size: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)).double()
    x, relevance = torch.randn(3, 3, 6, 6).double(), torch.randn(3, 3, 6, 6).double()
    for order in ("most", "least"):
        found = flipping_curve(model, x, relevance, 2, order, steps=4, patch=patch, baseline=0.5, batch_size=batch_size)
        np.testing.assert_allclose(found.numpy(), explicit(model, x, relevance, 2, order, 4, patch), rtol=1e-9)


def test_patches_at_the_border_are_smaller() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(35, 2))
    x = torch.randn(2, 1, 5, 7)
    curve = flipping_curve(model, x, x, 0, steps=1, patch=3)
    torch.testing.assert_close(curve[:, 1], model(torch.zeros_like(x)).softmax(1)[:, 0])


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 6), (4, 2, 4, 4), (4, 2, 4, 4, 3)])
def test_every_kind_of_input_ends_at_its_baseline(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 3))
    x = torch.randn(shape)
    reduced = x if len(shape) == 2 else x.sum(1)
    for baseline in (0.25, torch.full(shape[1:], 0.25), lambda x: torch.full_like(x, 0.25)):
        curve = flipping_curve(model, x, reduced, baseline=baseline, steps=3)
        target = model(x).argmax(1)
        end = model(torch.full(shape, 0.25)).softmax(1).gather(1, target[:, None])
        torch.testing.assert_close(curve[:, -1:], end)
    mean = flipping_curve(model, x, reduced, baseline="mean", steps=3)
    dims = tuple(range(2, len(shape))) if len(shape) > 2 else (1,)
    end = model(x.mean(dims, keepdim=True).expand(shape)).softmax(1).gather(1, target[:, None])
    torch.testing.assert_close(mean[:, -1:], end)


def test_the_gain_falls_into_two_and_chance_gains_nothing() -> None:
    model, x = Weighted(*range(-10, 11)), torch.rand(50, 21)
    best = x * torch.arange(-10.0, 11.0)
    found = symmetric_relevance_gain(model, x, best, 0, parts=True, score="logit")
    assert isinstance(found, Gain)
    torch.testing.assert_close(found.gain, found.most + found.least)
    assert bool((found.most > 0).all() and (found.least > 0).all())
    chance = symmetric_relevance_gain(model, x, torch.rand(50, 21), 0, score="logit")
    assert abs(float(chance.mean())) < 0.15 * float(found.gain.mean())


def test_a_good_explanation_beats_a_bad_one() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(20, 8)
    relevance = rp.LRP(model, rp.Epsilon()).explain(x).relevance
    good = area_between_curves(model, x, relevance)
    assert float(good.min()) > 0 > float(area_between_curves(model, x, -relevance).max())


def test_conservation() -> None:
    model, x = nn.Linear(4, 2, bias=False), torch.randn(3, 4)
    found = rp.LRP(model, rp.Zero()).explain(x, target=0)
    error = relative_conservation_error(found.relevance, found.output[:, 0])
    assert error.shape == (3,) and float(error.max()) < 1e-5
    torch.testing.assert_close(relative_conservation_error(found), error)
    torch.testing.assert_close(
        relative_conservation_error(2 * found.relevance, found.output[:, 0]), torch.ones(3).double(), rtol=0, atol=1e-5
    )
    biased = nn.Linear(1, 1)
    nn.init.constant_(biased.weight, 1.0)
    nn.init.constant_(biased.bias, 3.0)
    absorbed = rp.LRP(biased, rp.Zero()).explain(torch.ones(1, 1), target=0)
    assert float(relative_conservation_error(absorbed)) == pytest.approx(0.75)

    class Pair(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return model(a) + 0.5 * model(b.relu())

    two = rp.LRP(Pair(), rp.Zero()).explain(x, torch.randn(3, 4), target=torch.tensor([0, 1, 0]))
    assert relative_conservation_error(two).shape == (3,) and float(relative_conservation_error(two).max()) < 1e-5
    soft = rp.LRP(nn.Sequential(model, nn.Softmax(-1)), rp.Zero()).explain(x)
    assert float(relative_conservation_error(soft).max()) < 1e-5, "the logit is explained"
    guided = rp.LRP(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), rp.GuidedBackprop()).explain(x, target=0)
    with pytest.raises(rp.RelpropError, match="no relevance"):
        relative_conservation_error(guided)
    with pytest.raises(rp.RelpropError, match="one value for each of 3 samples"):
        relative_conservation_error(found.relevance, torch.ones(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": [0.5, 0.2]}, "must rise from 0 to 1"),
        ({"patch": 0}, "at least 1"),
        ({"patch": 2}, "patches need an input with channels"),
        ({"score": "odds"}, '"probability", "logit"'),
        ({"order": "best"}, '"most", "least"'),
        ({"baseline": "blur"}, 'a number, "mean"'),
        ({"baseline": torch.zeros(3)}, "does not broadcast"),
        ({"relevance": torch.randn(2, 3)}, r"relevance \(2, 3\) does not fit the input \(2, 4\)"),
        ({"relevance": torch.full((2, 4), float("nan"))}, "NaN"),
        ({"target": 9}, "out of range"),
        ({"target": [0, 1, 0]}, "one for each of 2 samples"),
        ({"channels": 5}, "channels must be a dimension"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    x = torch.randn(2, 4)
    given = {"relevance": x, "target": 0, **options}
    with pytest.raises(rp.RelpropError, match=message):
        flipping_curve(nn.Linear(4, 3), x, **given)


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(3, 1, 5, 5), (3, 2, 10, 10), (4, 20)])
def test_the_area_is_pnpxais(shape: tuple[int, ...]) -> None:
    pytest.importorskip("pnpxai", reason="compares with pnpxai")
    from pnpxai.evaluator.metrics import AbPC

    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 4)).double()
    x = torch.randn(shape).double()
    relevance = torch.randn(shape[0], *shape[2:]).double() if len(shape) > 2 else torch.randn(shape).double()
    target = torch.tensor([0, 3, 1, 2])[: shape[0]]
    theirs = AbPC(model, channel_dim=1, n_steps=10).evaluate(x, target, relevance)
    # pnpxai's last of ten steps takes everything away, the others a tenth more each, rounded down
    count = relevance[0].numel()
    fractions = [*(step * (count // 10) / count for step in range(9)), 1.0]
    ours = area_between_curves(model, x, relevance, target, steps=fractions)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parity
def test_the_curve_is_quantus() -> None:
    quantus = pytest.importorskip("quantus", reason="compares with Quantus")
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).eval()
    x, relevance = torch.randn(3, 1, 6, 6), torch.randn(3, 1, 6, 6)
    target = torch.tensor([0, 3, 1])
    metric = quantus.PixelFlipping(features_in_step=4, normalise=False, perturb_baseline=0.3, disable_warnings=True)
    theirs = metric(model=model, x_batch=x.numpy(), y_batch=target.numpy(), a_batch=relevance.numpy())
    ours = flipping_curve(model, x, relevance, target, steps=9, baseline=0.3)
    np.testing.assert_allclose(ours[:, 1:].numpy(), np.array(theirs), rtol=1e-5)
