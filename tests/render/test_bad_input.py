"""What no picture can be made of, for every renderer: something sensible or a clear error, never a blank picture."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import relprop.render as render
from relprop.errors import InputError
from relprop.render import heatmap, pixels
from relprop.text import GenerationExplanation, SimilarityExplanation, TextExplanation
from relprop.text.pieces import Token
from tests.render.test_figure import pictures, texts
from tests.render.test_flow import explained

NOTHING = "no relevance: every value is zero"
Renderer = Callable[[np.ndarray], Any]

# Each draws a map [H, W] in its own way.
FIGURES: dict[str, Renderer] = {
    "picture": lambda a: render.picture(a[None, None]),
    "grid": lambda a: render.grid([a]),
    "grid, one scale": lambda a: render.grid([a], shared_scale=True),
    "grid, over": lambda a: render.grid([a], over=True, photo=np.full((*a.shape, 3), 90, np.uint8)),
    "signal": lambda a: render.signal(a),
    "slices": lambda a: render.slices(a[None]),
    "bars": lambda a: render.bars(a.reshape(-1)),
    "waterfall": lambda a: render.waterfall(a.reshape(-1)),
    "beeswarm": lambda a: render.beeswarm(a),
    "heat_table": lambda a: render.heat_table(a),
    "matrix": lambda a: render.matrix(a),
    "heads": lambda a: render.heads({"layer": a[None]}, 1),
    "experts": lambda a: render.experts({"layer": a}),
    "graph": lambda a: render.graph([("layer", i, float(v)) for i, v in enumerate(a.reshape(-1))], []),
}
ARRAYS: dict[str, Renderer] = {
    "heatmap": lambda a: heatmap(a),
    "overlay": lambda a: render.overlay(a, np.full((*a.shape, 3), 90, np.uint8)),
    "strip": lambda a: render.strip(a),
    "montage": lambda a: render.montage(a[None]),
    "frames": lambda a: render.frames(a[None])[0],
}
# Drawn from an explanation, or with no relevance at all.
OTHERS = {
    "flow", "audit_bars", "show", "save", "to_html", "pixels", "png_bytes", "save_array", "save_film", "make_map",
    "palette", "tile", "by_expert", "by_head", "head_relevance", "strongest_paths",
}  # fmt: skip


def test_every_renderer_is_here() -> None:
    public = {name for name, thing in vars(render).items() if inspect.isfunction(thing) and not name.startswith("_")}
    ours = {name for name in public if getattr(render, name).__module__.split(".")[-1] not in ("links", "walks")}
    assert ours - OTHERS == {name.split(",")[0] for name in (*FIGURES, *ARRAYS)}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
def test_a_figure_of_zeros_says_so(name: str, shape: tuple[int, int]) -> None:
    figure = FIGURES[name](np.zeros(shape))
    assert NOTHING in texts(figure)
    assert len(np.unique(pixels(figure))) > 2


@pytest.mark.parametrize("name", ARRAYS)
def test_colours_of_zeros_are_hatched(name: str) -> None:
    drawn = np.asarray(ARRAYS[name](np.zeros((8, 9))))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 2
    assert (np.asarray(ARRAYS[name](np.zeros((1, 1)))) < 255).all()


@pytest.mark.parametrize("name", {**FIGURES, **ARRAYS})
@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "1 NaN and 0 infinite"), (-np.inf, "0 NaN and 1 infinite"), (1e300, "too large to be added up")],
)
def test_what_is_not_finite_is_refused_and_where_it_is_said(name: str, value: float, message: str) -> None:
    relevance = np.ones((3, 4))
    relevance[1, 2] = value
    if name == "matrix" and np.isnan(value):
        return  # there it is what is missing, and drawn grey
    with pytest.raises(InputError, match=message):
        {**FIGURES, **ARRAYS}[name](relevance)


@pytest.mark.parametrize("name", {**FIGURES, **ARRAYS})
def test_nothing_at_all_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"empty|no nodes|got shape \(0, 3\)"):
        {**FIGURES, **ARRAYS}[name](np.zeros((0, 3)))


@pytest.mark.parametrize("name", {**FIGURES, **ARRAYS})
@pytest.mark.parametrize("value", [2.0, -1e-30, 1e-45])
def test_one_pixel_is_drawn(name: str, value: float) -> None:
    drawn = {**FIGURES, **ARRAYS}[name](np.full((1, 1), value))
    if name in FIGURES:
        assert NOTHING not in texts(drawn)
        assert len(np.unique(pixels(drawn).reshape(-1, 3), axis=0)) > 2
    for picture in pictures(drawn) if name in FIGURES else [np.asarray(drawn)]:
        red, _, blue = (int(c) for c in picture[0, 0])
        # red is for, blue is against, however little it is
        assert (red - blue) * np.sign(value) > 40 or (red == blue and "over" in name)


@pytest.mark.parametrize("map_size", [(8, 4), (4, 8), (1, 3)])
def test_a_map_of_another_section_is_refused(map_size: tuple[int, int]) -> None:
    photo, relevance = np.zeros((16, 16, 3), np.uint8), np.ones(map_size)
    height, width = map_size
    message = f"the map is {height} x {width} and the photograph 16 x 16"
    for call in (
        lambda: render.overlay(relevance, photo),
        lambda: render.grid([relevance], photo=photo),
        lambda: render.grid([relevance], photo=photo, over=True),
        lambda: render.picture(relevance[None, None], image=photo),
        lambda: render.frames(relevance[None], [photo]),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_thousand_maps_are_refused_and_of_a_batch_the_first_are_drawn() -> None:
    many = torch.ones(1000, 1, 2, 2)
    with pytest.raises(InputError, match="show fewer at a time"):
        render.grid(many)
    assert "the first 12 of 1000 samples" in texts(render.picture(many))


@pytest.mark.parametrize("name", ["bars", "waterfall", "beeswarm", "heat_table", "graph"])
def test_of_a_thousand_features_the_strongest_are_drawn(name: str) -> None:
    figure = FIGURES[name](np.random.default_rng(0).normal(size=(1, 1000)))
    assert re.search(r"9\d\d others together|8 of 1000", texts(figure))
    assert max(pixels(figure).shape[:2]) < 2000


def test_a_thousand_classes_of_names() -> None:
    names = [f"class {i} " + "x" * 200 for i in range(1000)]
    figure = render.bars(np.arange(1000.0), names)
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 0.4 * figure.bbox.width


EVIL = "costs $5, or $6_x^{2$ \\frac <script>\u202e"
ROWS = np.random.default_rng(0).normal(size=(3, 4))
NAMED: dict[str, Callable[[], Any]] = {
    "bars": lambda: render.bars(ROWS[0], [EVIL] * 4, [EVIL] * 4, title=EVIL),
    "waterfall": lambda: render.waterfall(ROWS[0], [EVIL] * 4, [EVIL] * 4, title=EVIL),
    "beeswarm": lambda: render.beeswarm(ROWS, [EVIL] * 4, ROWS, title=EVIL),
    "heat_table": lambda: render.heat_table(ROWS, [EVIL] * 4, np.full((3, 4), EVIL, object), rows=[EVIL] * 3),
    "matrix": lambda: render.matrix(ROWS, [EVIL] * 3, [EVIL] * 4, title=EVIL, across_label=EVIL),
    "heads": lambda: render.heads({EVIL: ROWS[None], "b": ROWS[None]}, 2, title=EVIL),
    "graph": lambda: render.graph(
        [(EVIL, EVIL, 1.0), ("b", EVIL, 2.0)], [((EVIL, EVIL), ("b", EVIL), 1.0)], title=EVIL
    ),
    "grid": lambda: render.grid([np.eye(3)], [EVIL], caption=EVIL),
    "signal": lambda: render.signal(ROWS, names=[EVIL] * 3, time_label=EVIL, title=EVIL),
    "slices": lambda: render.slices(np.ones((2, 2, 2)), title=EVIL),
    "audit_bars": lambda: render.audit_bars(explained(), title=EVIL),
}


@pytest.mark.parametrize("name", NAMED)
def test_every_text_is_drawn_as_it_is(name: str, tmp_path: Path) -> None:
    figure = NAMED[name]()
    written = texts(figure)
    assert "costs $5, or $6_x" in written and "\u202e" not in written
    pixels(figure)  # a formula that does not parse would raise here
    svg = render.save(figure, tmp_path / "a.svg").read_text()
    assert "<script" not in svg


# -- texts -------------------------------------------------------------------------------------------------------------


def text(words: list[str], relevance: Any) -> TextExplanation:
    tokens = [Token(i, word, word) for i, word in enumerate(words)]
    return TextExplanation(tokens, torch.as_tensor(relevance, dtype=torch.float64), 1.0, "logit of 'x'")


def answer(relevance: float, lines: int = 2) -> GenerationExplanation:
    tokens = [Token(i, f" w{i}", f" w{i}") for i in range(lines + 3)]
    matrix = torch.full((lines, lines + 3), relevance).tril(2)
    audits = [explained().audit] * lines
    return GenerationExplanation(tokens, 3, matrix, torch.ones(lines), torch.ones(lines), audits)


def two(relevance: float) -> SimilarityExplanation:
    parts = [text(["a", " b"], [relevance, relevance]) for _ in range(2)]
    return SimilarityExplanation(parts[0], parts[1], 0.5, explained().audit)


SHOWN: dict[str, Callable[[Any], Any]] = {
    "figure": lambda found: found._figure(),
    "page": lambda found: found._fragment(),
    "terminal": lambda found: found.show(file=io.StringIO()),
}


@pytest.mark.parametrize("way", SHOWN)
@pytest.mark.parametrize(
    ("found", "message"),
    [
        (text([], []), "no text to draw"),
        (text(["a", " b"], [1.0, float("nan")]), "1 NaN"),
        (text(["a"], [float("inf")]), "1 infinite"),
        (two(float("nan")), "4 NaN"),
        (answer(float("nan")), "NaN"),
    ],
    ids=["empty", "nan", "inf", "two texts", "answer"],
)
def test_texts_that_cannot_be_drawn(way: str, found: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SHOWN[way](found)
    assert message.split()[-1] in found._repr_html_()  # a notebook's display says it and raises nothing


@pytest.mark.parametrize("found", [text(["a", " b"], [0, 0]), two(0.0), answer(0.0)], ids=["text", "two", "answer"])
def test_texts_of_zeros_say_so(found: Any) -> None:
    assert NOTHING in texts(found._figure())
    stream = io.StringIO()
    found.show(file=stream)
    assert "zero everywhere" in stream.getvalue() and "zero everywhere" in found._fragment()


@pytest.mark.parametrize("length", [90, 91, 500, 4001])
def test_a_word_longer_than_a_line_is_cut_into_lines(length: int) -> None:
    figure = text(["x" * length, " end"], [1.0, -1.0])._figure()
    drawn = [t.get_text() for t in figure.axes[0].texts]
    assert "".join(drawn[1:-1]) == "x" * length and max(map(len, drawn[1:])) == 90
    figure.draw_without_rendering()
    edge = figure.bbox
    assert all(t.get_window_extent().x1 <= edge.x1 for t in figure.axes[0].texts)


def test_signs_that_the_font_lacks_are_drawn_as_boxes_without_a_warning(tmp_path: Path) -> None:
    found = text(["你好", " 👍🏽", " مرحبا", " $x_1$"], [1.0, -2.0, 0.5, 0.1])
    assert found.save(tmp_path / "a.png").stat().st_size > 1000
    assert len(np.unique(pixels(render.bars([1.0, 2.0], ["年齢", "<年>"])))) > 3


def test_of_a_long_answer_it_is_said_what_is_drawn() -> None:
    written = texts(answer(0.5, 80)._figure())
    assert "the first 60 of 80 words of the answer" in written and "the 60 strongest of 83 words" in written
