"""The kept pictures: whatever changes one of them is noticed."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from relprop.render import heatmap, overlay
from tests.render.golden_cases import CASES, FOLDER, difference, scene

#: The matplotlib that drew the kept figures.
DRAWN_WITH = "3.11"
image = pytest.importorskip("PIL.Image", reason="reading the kept pictures needs pillow")


def kept(name: str) -> np.ndarray:
    with image.open(FOLDER / f"{name}.png") as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize("name", CASES)
def test_looks_as_it_did(name: str) -> None:
    if name.startswith("figure"):
        version = importlib.metadata.version("matplotlib")
        if not version.startswith(f"{DRAWN_WITH}."):
            pytest.skip(f"figures are drawn otherwise by matplotlib {version}: they were kept with {DRAWN_WITH}")
    # Arrays are the same to a rounding; figures may differ where text is set otherwise.
    block, most = (12, 0.06) if name.startswith("figure") else (1, 0.01)
    assert difference(CASES[name](), kept(name), block) <= most


def test_no_kept_picture_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.png")} == set(CASES)


@pytest.mark.parametrize(
    "changed",
    [
        lambda photo, r: heatmap(-r),
        lambda photo, r: heatmap(r, percentile=90),
        lambda photo, r: heatmap(r.T),
        lambda photo, r: heatmap(np.roll(r, 1, axis=1)),
        lambda photo, r: heatmap(r, colours="bwr"),
        lambda photo, r: overlay(r, photo),
    ],
    ids=["sign", "clipping", "transposed", "shifted", "colours", "overlay"],
)
def test_the_comparison_notices(changed: object) -> None:
    photo, relevance = scene()
    assert difference(changed(photo, relevance), kept("heatmap"), 1) > 0.05  # type: ignore[operator]


def test_the_comparison_of_figures_notices_a_missing_map() -> None:
    figure = kept("figure_grid").copy()
    figure[100:250, 500:700] = 255
    assert difference(figure, kept("figure_grid"), 12) > 0.06
