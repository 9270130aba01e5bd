"""Maps in a real browser: what is clicked, slid and typed changes what is drawn, and what is read is true."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from relprop.explain import Audit, Explanation
from relprop.plan import Plan
from relprop.render import heatmap, to_html
from relprop.render.palette import palette
from tests.browser.conftest import Tab, changed

Open = Callable[..., Tab]
RULES, TARGETS = ("EpsilonPlus", "EpsilonGammaBox(low=-2, high=2)"), ("cat (0)", "dog (1)", "bird (2)")
WRITTEN = ("EpsilonPlus()", RULES[1])


def explained(seed: int, target: int, scale: float = 1.0) -> Explanation:
    generator = torch.Generator().manual_seed(seed)
    relevance = torch.randn(1, 3, 16, 20, generator=generator, dtype=torch.float64) * scale
    audit = Audit(1.0, {"x": 0.7 + seed / 100}, {}, 0.3 - seed / 100, 0, 0, 0, 1.0, 1e-3)
    output = torch.tensor([[2.0, 1.0, 0.0]])
    return Explanation(relevance, output, torch.tensor([target]), audit, Plan(WRITTEN[seed % 2], (), ()))


SEVERAL = {(r, t): explained(2 * j + i, j, 10.0**i) for i, r in enumerate(RULES) for j, t in enumerate(TARGETS)}
PHOTO = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "maps.html"
    return to_html(SEVERAL, path, PHOTO, names=["cat", "dog", "bird"], title="Six maps")


def values(rules: str, target: str) -> np.ndarray:
    found: np.ndarray = SEVERAL[rules, target].relevance[0].sum(0).numpy()
    return found


def plain(tab: Tab) -> None:
    """The map alone: opaque, nothing fades."""
    tab.page.get_by_label("Let weak relevance fade").uncheck()
    tab.slide("#opacity", 100)


def centre(tab: Tab, row: int, column: int, rows: int = 16, columns: int = 20) -> tuple[float, float]:
    box = tab.page.locator("#sheet").bounding_box()
    return box["x"] + (column + 0.5) / columns * box["width"], box["y"] + (row + 0.5) / rows * box["height"]


def blocks(tab: Tab, rows: int = 16, columns: int = 20) -> np.ndarray:
    """The colour in the middle of every value's block."""
    drawn = tab.pixels()
    at = (np.arange(rows) + 0.5) / rows * drawn.shape[0], (np.arange(columns) + 0.5) / columns * drawn.shape[1]
    return drawn[at[0].astype(int)[:, None], at[1].astype(int)[None]]


def test_the_map_has_the_colours_of_its_values(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    plain(tab)
    wanted = heatmap(SEVERAL[RULES[0], TARGETS[0]].relevance[0], percentile=99.5).astype(int)
    assert np.abs(blocks(tab) - wanted).max() <= 2


def test_every_map_can_be_chosen(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    plain(tab)
    seen = []
    for i, rules in enumerate(RULES):
        for j, target in enumerate(TARGETS):
            tab.page.get_by_label(rules, exact=True).check()
            tab.page.get_by_label(target, exact=True).check()
            tab.shows(3 * i + j)
            wanted = heatmap(SEVERAL[rules, target].relevance[0], percentile=99.5).astype(int)
            assert np.abs(blocks(tab) - wanted).max() <= 2
            assert tab.text("#caption").startswith(f"{rules} for {target}. 20 × 16 values")
            assert f"{values(rules, target).sum():.4g}" in tab.text("#caption")
            assert f"{70 + 2 * j + i:.2f}%" in tab.text("table.books >> visible=true")
            assert f"{target} explained" in tab.text("tr.explained >> visible=true")
            assert f"rp.{WRITTEN[i]})" in tab.text("pre >> visible=true")
            label = tab.page.locator("#map").get_attribute("aria-label")
            assert rules in label and target in label
            seen.append(tab.pixels())
    assert all(changed(a, b) > 0.5 for i, a in enumerate(seen) for b in seen[:i])


def test_opacity_shows_the_photograph_below(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    plain(tab)
    tab.page.get_by_label("Photograph in grey").uncheck()
    drawn = {}
    for value in (100, 50, 0):
        tab.slide("#opacity", value)
        assert tab.text("#opacity-value") == f"{value} %"
        drawn[value] = tab.pixels()
    assert changed(drawn[100], drawn[50]) > 0.8 and changed(drawn[50], drawn[0]) > 0.8
    # Half is half: the mean of both.
    assert np.abs(drawn[50] - (drawn[100] + drawn[0]) / 2).max() <= 3
    at = (np.arange(32) + 0.5) / 32 * drawn[0].shape[0], (np.arange(40) + 0.5) / 40 * drawn[0].shape[1]
    assert np.abs(drawn[0][at[0].astype(int)[:, None], at[1].astype(int)[None]] - PHOTO).max() <= 3


def test_weak_relevance_fades_and_strong_stays(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    tab.slide("#opacity", 100)
    tab.page.get_by_label("Photograph in grey").uncheck()
    faded = blocks(tab)
    tab.page.get_by_label("Let weak relevance fade").uncheck()
    tab.settled()
    full = blocks(tab)
    tab.slide("#opacity", 0)
    photo = blocks(tab)
    strength = np.abs(values(RULES[0], TARGETS[0]))
    share = np.sqrt(np.minimum(1, strength / np.percentile(strength, 99.5)))[..., None]
    assert np.abs(faded - (share * full + (1 - share) * photo)).max() <= 4


def test_grey_takes_the_photograph_s_colours(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    tab.slide("#opacity", 0)
    grey = tab.pixels()
    assert np.ptp(grey, axis=-1).max() <= 2
    tab.page.get_by_label("Photograph in grey").uncheck()
    assert np.ptp(tab.pixels(), axis=-1).mean() > 50


def test_one_scale_for_all(open_page: Open, page: Path) -> None:
    """The second rules' maps are ten times as strong: on the common scale the first ones grow pale."""
    tab = open_page(page)
    plain(tab)
    own, ticks = tab.pixels(), tab.text(".ticks")
    tab.page.get_by_label("Same scale for all maps").check()
    tab.page.wait_for_function("() => document.querySelector('#caption').textContent.includes('same for all')")
    shared = tab.pixels()
    assert np.ptp(shared, axis=-1).mean() < np.ptp(own, axis=-1).mean() / 3
    everything = np.concatenate([np.abs(values(r, t)).ravel() for r, t in SEVERAL])
    limit = np.percentile(everything, 99.5)
    assert tab.text(".ticks") != ticks and f"{limit:.3g}" in tab.text(".ticks")
    wanted = heatmap(values(RULES[0], TARGETS[0]), limit=float(limit)).astype(int)
    assert np.abs(blocks(tab) - wanted).max() <= 2


def read(tab: Tab) -> tuple[int, int, float, list[int]]:
    """Row, column, value and the input's colours, as the page says them."""
    said = tab.text("#readout").replace("−", "-")
    match = re.fullmatch(r"row (\d+), column (\d+): ([-+.\de]+) · input (\d+), (\d+), (\d+)", said)
    assert match, said
    row, column, value, *colours = match.groups()
    return int(row), int(column), float(value), [int(c) for c in colours]


def test_pointing_reads_place_value_and_input(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    wanted = values(RULES[0], TARGETS[0])
    assert tab.text("#readout") == ""
    for row, column in ((0, 0), (3, 17), (15, 19), (8, 2)):
        x, y = centre(tab, row, column)
        tab.page.mouse.move(x + 1, y + 1)
        seen = read(tab)
        assert seen[:2] == (row, column)
        assert seen[2] == pytest.approx(wanted[row, column], rel=6e-3)
        assert seen[3] == PHOTO[2 * row + 1, 2 * column + 1].tolist()
    tab.page.mouse.move(2, 2)
    assert tab.text("#readout") == ""


def test_the_pointer_on_the_scale_stands_at_the_value(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    wanted = values(RULES[0], TARGETS[0])
    limit = np.percentile(np.abs(wanted), 99.5)
    tab.page.mouse.move(*centre(tab, 5, 5))
    bar, pointer = (tab.page.locator(f"#{name}").bounding_box() for name in ("bar", "pointer"))
    share = (pointer["x"] + pointer["width"] / 2 - bar["x"]) / bar["width"]
    assert share == pytest.approx((float(np.clip(wanted[5, 5] / limit, -1, 1)) + 1) / 2, abs=0.01)


def test_zoom_enlarges_and_dragging_moves(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    plain(tab)
    whole = tab.pixels("#stage")
    frame = tab.page.locator("#stage").bounding_box()
    tab.slide("#zoom", 400)
    assert tab.page.locator("#stage").bounding_box() == frame  # the page does not jump
    near = tab.pixels("#stage")
    assert changed(whole, near) > 0.5 and tab.text("#zoom-value") == "400 %"
    # A quarter of the width is seen, around the middle: the colours there are those of the middle values.
    middle = heatmap(values(RULES[0], TARGETS[0]), percentile=99.5)[8, 10].astype(int)
    assert np.abs(near[near.shape[0] // 2 + 20, near.shape[1] // 2 + 20] - middle).max() <= 2
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    before = tab.ask("[stage.scrollLeft, stage.scrollTop]")
    tab.page.mouse.move(x, y)
    tab.page.mouse.down()
    tab.page.mouse.move(x - 60, y + 40, steps=4)
    tab.page.mouse.up()
    assert tab.ask("[stage.scrollLeft, stage.scrollTop]") == [before[0] + 60, before[1] - 40]
    assert changed(near, tab.pixels("#stage")) > 0.1
    # What is read under the pointer is what is there now.
    tab.page.mouse.move(x, y)
    row, column, value, _ = read(tab)
    assert value == pytest.approx(values(RULES[0], TARGETS[0])[row, column], rel=6e-3)
    assert tab.page.get_by_role("button", name="Reset the view").click() is None
    assert tab.text("#zoom-value") == "100 %"


def test_the_wheel_zooms_with_control_and_scrolls_without(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    x, y = centre(tab, 4, 4)
    tab.page.mouse.move(x, y)
    before = read(tab)
    tab.page.keyboard.down("Control")
    for _ in range(4):
        tab.page.mouse.wheel(0, -100)
    tab.page.keyboard.up("Control")
    tab.page.wait_for_function("() => document.querySelector('#zoom').value === '300'")
    tab.page.mouse.move(x + 1, y + 1)
    assert read(tab)[:2] == before[:2]  # what was under the pointer still is


def test_reset_brings_everything_back(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    begun = tab.pixels("#stage")
    tab.slide("#zoom", 300)
    plain(tab)
    tab.page.get_by_label("Same scale for all maps").check()
    assert changed(begun, tab.pixels("#stage")) > 0.5
    tab.page.get_by_role("button", name="Reset the view").click()
    tab.settled()
    assert changed(begun, tab.pixels("#stage")) == 0


def test_the_colour_bar_is_the_palette(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    bar = tab.pixels("#bar")
    line = bar[bar.shape[0] // 2]
    wanted = palette()(np.linspace(-1, 1, 9)).astype(int)
    seen = line[np.linspace(2, len(line) - 3, 9).astype(int)]
    assert np.abs(seen - wanted).max() <= 12
    limit = np.percentile(np.abs(values(RULES[0], TARGETS[0])), 99.5)
    low, middle, high = (tab.text(f"#{name}") for name in ("low", "middle", "high"))
    assert (low, middle, high) == (f"−{limit:.3g} against", "0", f"+{limit:.3g} for")


# -- other sizes and kinds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (1, 1, 1, 1), (1, 1, 1, 300), (1, 2, 40)])
def test_a_map_of_zeros_is_striped_and_says_so(open_page: Open, tmp_path: Path, shape: tuple[int, ...]) -> None:
    tab = open_page(to_html(torch.zeros(shape), tmp_path / "a.html"))
    drawn = tab.pixels()
    assert min(drawn.shape[:2]) > 50 and drawn.std() > 5
    assert tab.text("#caption") == "No relevance: every value is zero."
    assert "every value is zero" in tab.page.locator("#map").get_attribute("aria-label")
    assert not tab.page.locator("#scale").is_visible()


@pytest.mark.parametrize("value", [2.0, -2.0])
def test_one_pixel_is_a_block_of_its_colour(open_page: Open, tmp_path: Path, value: float) -> None:
    tab = open_page(to_html(torch.full((1, 1, 1, 1), value), tmp_path / "a.html"))
    drawn = tab.pixels()
    assert min(drawn.shape[:2]) > 100
    assert np.abs(drawn[5:-5, 5:-5] - palette()(np.array(value / 2)).astype(int)).max() <= 2


def test_a_row_of_values_is_no_hair(open_page: Open, tmp_path: Path) -> None:
    tab = open_page(to_html(torch.linspace(-1, 1, 500).view(1, 1, 1, 500), tmp_path / "a.html", percentile=100))
    drawn = tab.pixels()
    assert drawn.shape[0] > 60
    line = drawn[drawn.shape[0] // 2]
    assert line[3, 2] > line[3, 0] + 60 and line[-4, 0] > line[-4, 2] + 60  # blue on the left, red on the right


def test_blocks_of_a_large_map_lie_over_the_photograph(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 x 13 in blocks of two: the last ones are cut by the frame, the others stand where they belong."""
    from relprop.render.page import document

    monkeypatch.setattr(document, "_MOST_OF_ONE", 50)
    relevance = torch.zeros(1, 1, 11, 13)
    relevance[0, 0, 4, 6] = 1.0
    relevance[0, 0, 10, 12] = -1.0
    tab = open_page(to_html(relevance, tmp_path / "a.html", np.full((11, 13, 3), 255, np.uint8), percentile=100))
    plain(tab)
    drawn = blocks(tab, 11, 13)
    red = drawn[..., 0] - drawn[..., 2] > 60
    blue = drawn[..., 2] - drawn[..., 0] > 60
    assert np.argwhere(red).tolist() == [[4, 6], [4, 7], [5, 6], [5, 7]]
    assert np.argwhere(blue).tolist() == [[10, 12]]
    tab.page.mouse.move(*centre(tab, 5, 7, 11, 13))
    assert tab.text("#readout").startswith("row 4–5, column 6–7: +1")


def test_the_input_s_own_values_are_read(open_page: Open, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 6, 6, generator=generator)
    found = Explanation(torch.randn(1, 3, 6, 6, generator=generator), None, None, None, None, inputs=x)  # type: ignore[arg-type]
    tab = open_page(to_html(found, tmp_path / "a.html"))
    tab.page.mouse.move(*centre(tab, 2, 4, 6, 6))
    said = [float(n) for n in tab.text("#readout").split("input ")[1].replace("−", "-").split(", ")]
    assert said == pytest.approx(x[0, :, 2, 4].tolist(), abs=0.05)


def test_a_signal_is_drawn_and_read(open_page: Open, tmp_path: Path) -> None:
    relevance = torch.zeros(1, 2, 40)
    relevance[0, 0, 10:20], relevance[0, 1, 30:] = 3.0, -1.5
    curve = torch.linspace(0, 12, 40).sin().expand(1, 2, 40)
    tab = open_page(to_html(relevance, tmp_path / "a.html", curve, percentile=100))
    tab.ask("curves.style.display = 'none'")
    drawn = blocks(tab, 2, 40)
    assert ((drawn[0, :, 0] - drawn[0, :, 2] > 60) == (np.arange(40) // 10 == 1)).all()
    assert ((drawn[1, :, 2] - drawn[1, :, 0] > 40) == (np.arange(40) >= 30)).all()
    without = tab.pixels()
    tab.ask("curves.style.display = ''")
    assert 0.003 < changed(without, tab.pixels()) < 0.3
    tab.page.mouse.move(*centre(tab, 1, 35, 2, 40))
    tab.page.wait_for_function("() => document.querySelector('#readout').textContent.includes('input')")
    said = tab.text("#readout").replace("−", "-")
    assert said.startswith("channel 1, step 35: -1.5 · input ")
    assert float(said.split("input ")[1]) == pytest.approx(float(curve[0, 1, 35]), rel=6e-3)


def test_thirty_explanations_are_chosen_from_a_list(open_page: Open, tmp_path: Path) -> None:
    several = {f"layer {i}": torch.full((1, 1, 2, 2), i - 14.5) for i in range(30)}
    tab = open_page(to_html(several, tmp_path / "a.html"))
    one = tab.pixels()
    tab.page.get_by_label("Explanation").select_option("layer 29")
    tab.shows(29)
    other = tab.pixels()
    assert changed(one, other) == 1.0 and other[5, 5, 0] > other[5, 5, 2]


def test_large_pages_open(open_page: Open, tmp_path: Path) -> None:
    """A photograph of 2048 x 2048 with its map in full."""
    generator = torch.Generator().manual_seed(0)
    relevance = torch.randn(1, 1, 2048, 2048, generator=generator)
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    tab = open_page(to_html(relevance, tmp_path / "a.html", photo))
    assert tab.pixels().std() > 5 and "2048 × 2048 values" in tab.text("#caption")
    tab.slide("#zoom", 1600)
    tab.page.mouse.move(*centre(tab, 1024, 1030, 2048, 2048))
    said = tab.text("#readout").replace("−", "-")
    match = re.match(r"row (\d+), column (\d+): ([-+.\de]+) ", said)
    assert match, said
    row, column = int(match[1]), int(match[2])
    assert abs(row - 1024) <= 1 and abs(column - 1030) <= 1
    assert float(match[3]) == pytest.approx(float(relevance[0, 0, row, column]), rel=6e-3)
    assert "input about" in said  # it is kept as JPEG
