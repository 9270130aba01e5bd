"""The pictures that are kept, and how two pictures are compared.

Write them anew after a change that is meant, and look at each:  python -m tests.render.golden_cases
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import relprop
from relprop.render import (
    audit_bars,
    bars,
    beeswarm,
    flow,
    frames,
    graph,
    grid,
    heads,
    heat_table,
    heatmap,
    matrix,
    montage,
    overlay,
    pixels,
    save_array,
    signal,
    slices,
    strip,
    tile,
    waterfall,
)
from relprop.render.palette import NAMES, oklab_from_srgb, palette
from relprop.text import GenerationExplanation, TextExplanation
from relprop.text.pieces import Token

FOLDER = Path(__file__).parent / "golden"


def scene(size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of two balls on a slope, and relevance that is for one and against the other."""
    rows, columns = np.indices((size, size)) / size
    slope = 0.25 + 0.5 * columns
    left = np.hypot(rows - 0.45, columns - 0.3) < 0.18
    right = np.hypot(rows - 0.6, columns - 0.72) < 0.15
    photo = np.stack([slope, slope * 0.9, slope * 0.8], -1)
    photo[left], photo[right] = (0.85, 0.55, 0.2), (0.2, 0.5, 0.45)
    ripples = np.sin(23 * rows + 7 * columns) * np.sin(19 * columns - 5 * rows)
    relevance = left * (1 + 0.6 * ripples) - 0.6 * right * (1 + 0.8 * ripples) + 0.05 * ripples
    return (photo * 255).round().astype(np.uint8), relevance


def _signals() -> tuple[np.ndarray, np.ndarray]:
    times = np.linspace(0, 12, 240)
    curves = np.stack([np.sin(times) * np.exp(-((times - 4) ** 2) / 8), np.cos(3 * times)])
    return curves, curves * np.roll(curves, 15, axis=1)


def _volume() -> tuple[np.ndarray, np.ndarray]:
    z, y, x = np.mgrid[-1:1:12j, -1:1:30j, -1:1:24j]
    body = np.exp(-2 * (z**2 + y**2 + x**2)) * (1 + 0.3 * np.sin(9 * x))
    for_it = np.exp(-20 * ((z - 0.2) ** 2 + (y + 0.3) ** 2 + (x - 0.1) ** 2))
    return body, for_it - 0.7 * np.exp(-30 * (z**2 + (y - 0.4) ** 2 + (x + 0.3) ** 2))


def _palettes() -> np.ndarray:
    ramp = np.linspace(-1, 1, 256)[None].repeat(10, 0)
    return np.concatenate([palette(name)(ramp) for name in NAMES])


def _film() -> np.ndarray:
    photo, relevance = scene(48)
    return tile(list(frames(np.stack([relevance * k for k in (0.2, 0.6, 1.0)]), [photo] * 3)))


def _table(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Relevance and values of a linear model on waves."""
    values = np.sin(np.outer(np.arange(1.0, rows + 1), np.arange(1.0, 13)) ** 1.1)
    return values * np.linspace(1.5, -0.7, 12), values


def _explained() -> Any:
    """A small convolutional network with biases, on the scene; all its weights are waves."""
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(3),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    model = nn.Sequential(*layers).double()
    x = torch.from_numpy(scene(24)[1])[None, None]
    model(x)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(
                torch.sin(torch.arange(p.numel(), dtype=p.dtype) * (1.7 + i)).reshape(p.shape) / p[0].numel() ** 0.5
            )
    return relprop.LRP(model, relprop.EpsilonAlpha2Beta1()).explain(x, target=1, layers="[0-5]")


def _graph() -> tuple[list[Any], list[Any]]:
    sizes = (1, 5, 9, 4)
    nodes = [(f"layer {k}", f"unit {i}", np.sin(3.0 * i + k) / (1 + k)) for k, n in enumerate(sizes) for i in range(n)]
    edges = [
        ((f"layer {k}", f"unit {i}"), (f"layer {k + 1}", f"unit {j}"), np.sin(2.0 * i + 5.0 * j + k) ** 3)
        for k in range(3)
        for i in range(sizes[k])
        for j in range(sizes[k + 1])
    ]
    return nodes, edges


def _tokens(text: str) -> list[Token]:
    parts = text.split(" ")
    return [Token(i, part, (" " if i else "") + part, part.startswith("[")) for i, part in enumerate(parts)]


def _text() -> TextExplanation:
    tokens = _tokens("[CLS] The café on the $5 corner was not bad at all, and the soup was <b>excellent</b>. [SEP]")
    return TextExplanation(tokens, torch.sin(torch.arange(len(tokens)) * 1.3), 2.5, "positive")


def _answer() -> GenerationExplanation:
    tokens = _tokens("Germany borders France, whose capital is called Paris, the largest city.")
    start, rows = 7, len(tokens) - 7
    matrix = torch.sin(torch.arange(rows * len(tokens)) * 0.7).reshape(rows, -1).tril(start - 1)
    ones = torch.ones(rows)
    return GenerationExplanation(tokens, start, matrix, ones, ones, [_explained().audit] * rows)


CASES: dict[str, Callable[[], np.ndarray]] = {
    "palettes": _palettes,
    "heatmap": lambda: heatmap(scene()[1]),
    "heatmap_clipped": lambda: heatmap(scene()[1] ** 3, percentile=95),
    "heatmap_positive": lambda: heatmap(scene()[1], reduce="positive", colours="hot"),
    "heatmap_zero": lambda: heatmap(np.zeros((32, 48))),
    "overlay": lambda: overlay(scene()[1], scene()[0]),
    "overlay_contours": lambda: overlay(scene()[1], scene()[0], smooth=2, contours=(-0.3, 0.3, 0.7)),
    "strip": lambda: strip(_signals()[1]),
    "montage": lambda: montage(_volume()[1], _volume()[0]),
    "film": _film,
    "figure_grid": lambda: pixels(
        grid([scene()[1], scene()[1] ** 3, 0 * scene()[1]], ["own", "cubed", "zero"], photo=scene()[0])
    ),
    "figure_shared": lambda: pixels(
        grid([scene()[1], scene()[1] / 3], ["a", "a / 3"], shared_scale=True, over=True, photo=scene()[0])
    ),
    "figure_signal": lambda: pixels(signal(_signals()[1], _signals()[0], names=["breath", "pulse"])),
    "figure_volume": lambda: pixels(slices(_volume()[1], _volume()[0], title="volume")),
    "figure_bars": lambda: pixels(bars(np.sin(np.arange(30.0)), count=8)),
    "figure_waterfall": lambda: pixels(
        waterfall(_table(1)[0][0], values=_table(1)[1][0], output=0.9, count=7, title="one row")
    ),
    "figure_beeswarm": lambda: pixels(beeswarm(_table(90)[0], values=_table(90)[1], count=6, title="many rows")),
    "figure_heat_table": lambda: pixels(heat_table(_table(60)[0], count=8, order="similar", title="many rows")),
    "figure_text": lambda: pixels(_text()._figure()),
    "figure_text_answer": lambda: pixels(_answer()._figure()),
    "figure_flow": lambda: pixels(flow(_explained(), books={0: {"bias": 0.2, "excess": -0.1}, 3: {"bias": -0.3}})),
    "figure_audit": lambda: pixels(audit_bars(_explained().audit, title="the books")),
    "figure_heads": lambda: pixels(
        heads({f"layer {i}": np.sin(i + np.arange(96.0)).reshape(4, 24) for i in (1, 2)}, 8)
    ),
    "figure_matrix": lambda: pixels(matrix(np.where(np.eye(5) > 0, np.nan, _table(5)[0][:, :5]), title="matrix")),
    "figure_graph": lambda: pixels(graph(*_graph(), paths=6, count=6, title="graph")),
    "figure_heat_table_small": lambda: pixels(heat_table(_table(5)[0], values=_table(5)[1], count=6)),
}


def difference(one: np.ndarray, other: np.ndarray, block: int) -> float:
    """How different two pictures look: the largest OKLab distance between blocks of pixels.

    Averaging over blocks forgives what another version of a font draws a pixel further; about 0.02 can just
    be seen.
    """
    assert one.shape == other.shape, f"sizes differ: {one.shape} and {other.shape}"
    lab = [oklab_from_srgb(picture / 255) for picture in (one, other)]
    apart = lab[0] - lab[1]
    height, width = (n - n % block for n in apart.shape[:2])
    if height and width:
        blocks = apart[:height, :width].reshape(height // block, block, width // block, block, 3)
        apart = blocks.mean((1, 3))
    return float(np.linalg.norm(apart, axis=-1).max())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in CASES.items():
        print(save_array(make(), FOLDER / f"{name}.png"))
