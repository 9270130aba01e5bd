"""Tables: what stands in the bars, the waterfall, the beeswarm and the table of colours, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relprop.errors import InputError
from relprop.render import bars, beeswarm, heat_table, palette, pixels, waterfall
from relprop.render.table import _swarm
from relprop.tabular import Comparison, Result, Results
from tests.render.test_figure import pictures, texts

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(40, 6)) * np.array([1, 5, 0.1, 2, 3, 0.5])
VALUES = RNG.normal(size=(40, 6))
NAMES = ["age", "$pay", "<b>tag</b>", "y_1^2", "e", "f"]


def labels(figure: Any, axis: int = 0) -> list[str]:
    return [label.get_text() for label in figure.axes[axis].get_yticklabels()]


# -- waterfall ---------------------------------------------------------------------------------------------------------


def test_a_waterfall_adds_up_to_the_output() -> None:
    figure = waterfall([1.0, -3.0, 0.5, 2.0], NAMES[:4], [10, 20, 30, 40], output=1.25, count=2)
    *steps, total = figure.axes[0].patches
    # -3, +2, the others 1.5, and what the output 1.25 has beyond their sum 0.5
    assert [bar.get_width() for bar in steps] == [-3.0, 2.0, 1.5, 0.75]
    assert [bar.get_x() for bar in steps] == [0.0, -3.0, -1.0, 0.5]
    assert (total.get_x(), total.get_width()) == (0.0, 1.25)
    assert labels(figure) == ["$pay = 20", "y_1^2 = 40", "2 others together", "biases and stabilisers", "output"]
    assert "1.25" in texts(figure) and "+0.75" in texts(figure)
    pixels(figure)


def test_a_waterfall_without_an_output_ends_at_the_sum() -> None:
    figure = waterfall(torch.tensor([1.0, 2.0]))
    assert labels(figure) == ["feature 1", "feature 0", "sum of relevance"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2.0, 1.0, 3.0]


def test_the_numbers_of_a_waterfall_lie_inside_the_picture() -> None:
    for row in ([5.0, -9.0, 3.0], [-1.0, -2.0], [1e-9, 2e-9], [1e8, -1e8]):
        figure = waterfall(row, output=sum(row) + 1)
        figure.draw_without_rendering()
        edge = figure.bbox
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert edge.x0 <= box.x0 and box.x1 <= edge.x1, row


@pytest.mark.parametrize("draw", [bars, waterfall])
def test_values_may_be_words(draw: Any) -> None:
    assert labels(draw([2.0, 1.0], ["colour", "size"], ["red", 3.14159]))[:2] == ["colour = red", "size = 3.142"]


@pytest.mark.parametrize("draw", [bars, waterfall])
def test_a_thousand_features_and_one_are_drawn(draw: Any) -> None:
    many = draw(np.arange(-500.0, 501.0), count=10)
    assert sum("others together" in text for text in labels(many)) == 1 and "991 others together" in labels(many)
    assert pixels(many).shape[0] < 1000
    assert len(np.unique(pixels(draw([3.0])))) > 3


@pytest.mark.parametrize("draw", [bars, waterfall])
def test_long_names_leave_room_for_the_picture(draw: Any) -> None:
    figure = draw([1.0, -2.0], ["x" * 500, "a\nb"])
    assert labels(figure)[:2] == ["a b", "x" * 35 + "…"]
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 0.4 * figure.bbox.width


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: waterfall(np.ones((2, 3))), "a waterfall is drawn of one row"),
        (lambda: waterfall(np.ones(3), ["a"]), "3 features, but 1 names"),
        (lambda: waterfall(np.ones(3), values=[1]), "3 relevances, but 1 values"),
        (lambda: waterfall(np.ones(3), count=0), "count must be"),
        (lambda: waterfall(np.ones(3), output=float("nan")), "finite number, got nan"),
        (lambda: waterfall([1.0, np.nan]), "1 NaN"),
        (lambda: waterfall([]), "empty"),
        (lambda: waterfall(np.ones(2), "ab"), "must be a list of names"),
        (lambda: waterfall(np.ones(2), count=1.5), "a whole number; got 1.5"),
    ],
)
def test_bad_waterfalls(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# -- beeswarm ----------------------------------------------------------------------------------------------------------


def test_a_beeswarm_has_every_row_at_its_relevance() -> None:
    figure = beeswarm(TABLE, NAMES, VALUES, count=3)
    assert labels(figure) == ["$pay", "e", "y_1^2", "3 others together"]
    clouds = [np.asarray(c.get_offsets()) for c in figure.axes[0].collections]
    for cloud, j in zip(clouds, (1, 4, 3), strict=False):
        np.testing.assert_array_equal(cloud[:, 0], TABLE[:, j])
    np.testing.assert_allclose(clouds[3][:, 0], TABLE[:, [0, 2, 5]].sum(1))
    for place, cloud in enumerate(clouds):
        assert (np.abs(cloud[:, 1] - place) < 0.5).all()


def test_points_of_a_beeswarm_are_coloured_by_value() -> None:
    values = np.arange(101.0)[:, None]
    points = beeswarm(np.ones((101, 1)), ["a"], values).axes[0].collections[0].get_facecolors()[:, :3]
    wanted = palette("viridis")(np.clip((np.arange(101) - 5) / 90, 0, 1), signed=False) / 255
    np.testing.assert_allclose(points, wanted, atol=1e-9)


def test_missing_values_and_words_are_grey() -> None:
    values = np.array([[1.0], [np.nan], [3.0], [np.inf]])
    points = beeswarm(np.ones((4, 1)), values=values).axes[0].collections[0].get_facecolors()[:, :3]
    assert (points[1] == points[3]).all() and not (points[0] == points[1]).all()
    words = beeswarm(np.ones((2, 1)), values=np.array([["red"], ["blue"]])).axes[0].collections[0].get_facecolors()
    np.testing.assert_array_equal(words[0, :3], points[1])


def test_a_feature_of_one_value_has_the_middle_colour() -> None:
    points = beeswarm(np.ones((3, 1)), values=np.full((3, 1), 7.0)).axes[0].collections[0].get_facecolors()
    np.testing.assert_allclose(points[:, :3], palette("viridis")(np.full(3, 0.5), signed=False) / 255, atol=1e-9)


def test_a_beeswarm_is_the_same_each_time_and_hides_no_point() -> None:
    at = np.round(RNG.normal(size=300), 1)
    offsets = _swarm(at / np.abs(at).max(), 10.0)
    np.testing.assert_array_equal(offsets, _swarm(at / np.abs(at).max(), 10.0))
    assert len({*zip(at.tolist(), offsets.tolist(), strict=True)}) == 300  # no two at one place
    np.testing.assert_array_equal(pixels(beeswarm(TABLE, values=VALUES)), pixels(beeswarm(TABLE, values=VALUES)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2000, 2), (3, 1000)])
def test_odd_tables_are_drawn(shape: tuple[int, int]) -> None:
    table = np.random.default_rng(1).normal(size=shape)
    for figure in (beeswarm(table, values=table), heat_table(table, values=table)):
        assert len(np.unique(pixels(figure))) > 3


# -- table of colours --------------------------------------------------------------------------------------------------


def test_a_table_of_colours_has_features_down_and_rows_across() -> None:
    table = np.array([[1.0, 0.0, -4.0], [0.5, 0.0, 2.0]])
    figure = heat_table(table, ["a", "b", "c"], rows=["one", "two"], order="given")
    main = next(axis for axis in figure.axes if axis.images)
    np.testing.assert_array_equal(pictures(figure)[0], palette()(np.array([[-4, 2], [1, 0.5], [0, 0]]) / 4))
    assert [t.get_text() for t in main.get_yticklabels()] == ["c", "a", "b"]
    assert [t.get_text() for t in main.get_xticklabels()] == ["one", "two"]
    assert {"-4", "+2", "+1", "+0.5", "0"} <= {t.get_text() for t in main.texts}


def test_a_small_table_has_values_in_its_cells() -> None:
    figure = heat_table([[1.0, -4.0]], ["a", "b"], [[0.25, 1234567.0]])
    assert "+1\n(0.25)" in texts(figure) and "-4\n(1.235e+06)" in texts(figure)


def test_words_and_gaps_stand_in_the_cells_as_they_are() -> None:
    values = np.array([["rome", 1.5], [None, float("nan")]], dtype=object)
    written = texts(heat_table([[1.0, 2.0], [3.0, 4.0]], ["city", "a"], values))
    assert all(text in written for text in ("+1\n(rome)", "+2\n(1.5)", "+3\n(missing)", "+4\n(missing)"))
    assert labels(bars([2.0, 1.0], ["city", "a"], [None, float("nan")])) == ["city = missing", "a = missing"]


def test_rows_are_ordered_as_asked() -> None:
    table = np.array([[1.0, 1.0], [3.0, -9.0], [2.0, 2.0], [3.0, -8.0]])

    def first(order: Any) -> list[str]:
        axis = next(a for a in heat_table(table, order=order).axes if a.images)
        return [t.get_text() for t in axis.get_xticklabels()]

    assert first("given") == ["0", "1", "2", "3"]
    assert first("sum") == ["2", "0", "3", "1"]
    assert first("similar") in (["2", "0", "3", "1"], ["1", "3", "0", "2"])
    with pytest.raises(InputError, match="unknown order 'best'; there are given, sum, similar"):
        first("best")


def test_the_others_are_summed_row_by_row() -> None:
    figure = heat_table(TABLE, NAMES, count=2, order="given", percentile=100)
    drawn = np.stack([TABLE[:, 1], TABLE[:, 4], TABLE[:, [0, 2, 3, 5]].sum(1)])
    np.testing.assert_array_equal(pictures(figure)[0], palette()(drawn / np.abs(drawn).max()))


def test_of_many_rows_it_is_said_how_many_are_drawn() -> None:
    figure = heat_table(np.random.default_rng(2).normal(size=(1500, 3)))
    assert pictures(figure)[0].shape == (3, 400, 3)
    assert "400 of 1500 rows, evenly chosen" in texts(figure)


def test_tables_of_zeros_say_so() -> None:
    for figure in (beeswarm(np.zeros((3, 2)), values=np.ones((3, 2))), heat_table(np.zeros((3, 2)))):
        assert "every value is zero" in texts(figure)
        pixels(figure)


@pytest.mark.parametrize("draw", [beeswarm, heat_table])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3),), r"many rows of features are \[N, F\]; got shape \(3,\)"),
        ((np.zeros((0, 3)),), r"empty: its shape is \(0, 3\)"),
        ((np.ones((2, 3)), ["a"]), "3 features, but 1 names"),
        ((np.ones((2, 3)), None, np.ones((2, 2))), r"shape \(2, 2\) and their relevance \(2, 3\)"),
        ((np.array([[1.0, np.inf]]),), "1 infinite"),
    ],
)
def test_bad_tables(draw: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(*arguments)


def test_rows_need_as_many_names() -> None:
    with pytest.raises(InputError, match="2 rows of relevance, but 1 names of rows"):
        heat_table(np.ones((2, 2)), rows=["a"])


# -- results of tables -------------------------------------------------------------------------------------------------


def result(i: int, relevance: np.ndarray = TABLE, label: Any = None) -> Result:
    return Result(
        tuple(NAMES), VALUES[i], relevance[i], 1, "malignant", float(relevance[i].sum()) + 1, "eps", {}, label
    )


def test_results_are_drawn_in_every_kind(tmp_path: Path) -> None:
    one, all_ = result(0), Results([result(i, label=f"row {i}") for i in range(5)])
    assert "biases and stabilisers" in texts(one.picture(kind="waterfall"))
    assert "others" not in texts(one.picture()) and "$pay = " in texts(one.picture())
    assert "relevance of 5 rows" in texts(all_.picture())
    assert "row 3" in texts(all_.picture(kind="heat"))
    heights = [bar.get_width() for bar in all_.picture(kind="bars").axes[0].patches]
    np.testing.assert_allclose(heights, [value for _, value in all_.mean_strength()])
    for i, kind in enumerate(("beeswarm", "heat", "bars")):
        assert all_.save(tmp_path / f"{i}.png", kind=kind).stat().st_size > 1000
    compared = Comparison(epsilon=one, gamma=result(1))
    assert {"epsilon", "gamma", "$pay"} <= set(texts(compared.picture()).split("\n"))
    assert compared.save(tmp_path / "rules.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: result(0).picture(kind="pie"), "no drawing 'pie'; there are bars, waterfall"),
        (lambda: Results([result(0)]).picture(kind="waterfall"), "there are beeswarm, heat, bars"),
        (lambda: Results([]).picture(), "no rows to draw"),
        (lambda: Comparison().picture(), "no rules were compared"),
    ],
)
def test_bad_results(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# -- beside shap -------------------------------------------------------------------------------------------------------


@pytest.mark.parity
def test_bars_and_swarms_are_those_of_shap() -> None:
    shap = pytest.importorskip("shap", reason="shap is not installed")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    theirs = shap.Explanation(TABLE, base_values=np.zeros(40), data=VALUES, feature_names=list("abcdef"))
    try:
        widths = [bar.get_width() for bar in shap.plots.bar(theirs[0], max_display=4, show=False).patches]
        pyplot.close("all")
        np.testing.assert_allclose([bar.get_width() for bar in bars(TABLE[0], count=3).axes[0].patches], widths)
        axis = shap.plots.beeswarm(theirs, max_display=4, show=False)
        swarms = [np.asarray(c.get_offsets())[:, 0] for c in axis.collections if len(c.get_offsets())]
    finally:
        pyplot.close("all")
    ours = [np.asarray(c.get_offsets())[:, 0] for c in beeswarm(TABLE, count=3).axes[0].collections]
    for mine, others in zip(ours, reversed(swarms), strict=True):  # they count lines from below
        np.testing.assert_allclose(np.sort(mine), np.sort(others))
