"""The page for everyone: keyboard alone, dark, phone, print, no motion, no scripts; and no text is ever run."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp
from relprop.render import to_html
from tests.browser.conftest import PHONE, Tab, changed, pixels
from tests.render.test_page import EVIL, Wicked, wicked_pages
from tests.text.test_pages import answer_of, document, text_of

Open = Callable[..., Tab]
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def network() -> nn.Module:
    """Many layers with long names, so that the plan is long and wide."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for i in range(12):
        model.add_module(f"a_block_with_a_rather_long_name_{i}", nn.Conv2d(3, 3, 3, padding=1))
        model.add_module(f"activation_{i}", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("head", nn.Linear(3 * 24 * 24, 12))
    return model.eval()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, model = torch.rand(1, 3, 24, 24), network()
    rules = (rp.EpsilonPlus(), rp.EpsilonGammaBox(low=0.0, high=1.0))
    several = [rp.LRP(model, one).explain(x, target=t) for one in rules for t in (3, 4)]
    path = tmp_path_factory.mktemp("access") / "page.html"
    names = [f"a class with quite a long name, number {i}" for i in range(12)]
    return to_html(several, path, PHOTO, names=names, command="relprop report a.png " + "--preset Epsilon " * 9)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, page: Path) -> dict[str, Path]:
    """A page of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    words = "The old river runs down to the sea and never freezes said the keeper of the light".split()
    net = nn.Sequential(nn.Linear(60, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    row = rp.LRP(net).explain(torch.randn(1, 60), target=1)
    features = [f"a_feature_whose_name_is_longer_than_most_{i}" for i in range(60)]
    return {
        "maps": page,
        "words": to_html({"AttnLRP": text_of(words), "CPLRP": text_of(words, 1)}, folder / "words.html"),
        "document": to_html(document(), folder / "document.html"),
        "answer": to_html(answer_of(words, 9), folder / "answer.html"),
        "row": row.to_html(folder / "row.html", features=features),
        "signal": to_html(torch.randn(1, 3, 200), folder / "signal.html", torch.randn(3, 200)),
        "volume": to_html(torch.randn(1, 2, 4, 5, 6), folder / "volume.html"),
    }


KINDS = ("maps", "words", "document", "answer", "row", "signal", "volume")


OUTLINE = """() => { const style = getComputedStyle(document.activeElement);
  return [style.outlineStyle, parseFloat(style.outlineWidth)]; }"""


# -- keyboard ----------------------------------------------------------------------------------------------------------


def test_every_control_is_reached_in_order_and_seen(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    order = []
    while True:
        tab.page.keyboard.press("Tab")
        where = tab.focused()
        if where.startswith("body") or where in order:
            break
        order.append(where)
        style, width = tab.ask(OUTLINE)
        assert style != "none" and width >= 2, f"the focus on {where} is not seen"
    first = ["stage", "switch-rules", "switch-target", "opacity", "zoom", "fade", "grey", "same", "reset"]
    assert order[: len(first)] == first
    assert "SUMMARY" in order and order[-1] == "BUTTON copy"


def test_everything_works_with_the_keyboard(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    keys = tab.page.keyboard
    begun = tab.pixels()
    keys.press("Tab")  # the map
    keys.press("Tab")  # the rules
    keys.press("ArrowDown")
    tab.shows(2)
    second = tab.pixels()
    assert changed(begun, second) > 0.1
    keys.press("Tab")  # the targets
    keys.press("ArrowDown")
    tab.shows(3)
    third = tab.pixels()
    assert changed(second, third) > 0.1
    keys.press("Tab")
    assert tab.focused() == "opacity"
    for _ in range(10):
        keys.press("ArrowLeft")
    paler = tab.pixels()
    assert tab.text("#opacity-value") == "35 %" and changed(third, paler) > 0.1
    whole = tab.pixels("#stage")
    keys.press("Tab")
    keys.press("ArrowRight")
    assert tab.text("#zoom-value") == "150 %" and changed(whole, tab.pixels("#stage")) > 0.1
    keys.press("Home")
    assert tab.text("#zoom-value") == "100 %"
    keys.press("Tab")
    keys.press("Space")
    tab.settled()
    assert changed(paler, tab.pixels()) > 0.1  # nothing fades
    keys.press("Tab")
    before = tab.pixels()
    keys.press("Space")
    assert changed(before, tab.pixels()) > 0.1  # in colour
    keys.press("Tab")
    keys.press("Space")
    tab.page.wait_for_function("() => document.querySelector('#caption').textContent.includes('same for all')")
    keys.press("Tab")
    keys.press("Enter")
    tab.settled()
    assert changed(third, tab.pixels()) == 0  # reset


def test_arrow_keys_read_the_map(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    stage, keys = tab.page.locator("#stage"), tab.page.keyboard
    stage.focus()
    keys.press("ArrowRight")  # the first key shows where one is: the middle
    assert tab.text("#readout").startswith("row 12, column 12: ")
    assert tab.page.locator("#readout").get_attribute("aria-live") == "polite"
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        keys.press(key)
    assert tab.text("#readout").startswith("row 11, column 14: ")
    sheet, cursor = tab.page.locator("#sheet").bounding_box(), tab.page.locator("#cursor").bounding_box()
    x, y = (cursor[k] + cursor[s] / 2 for k, s in (("x", "width"), ("y", "height")))
    assert (x - sheet["x"]) / sheet["width"] == pytest.approx(14.5 / 24, abs=0.005)
    assert (y - sheet["y"]) / sheet["height"] == pytest.approx(11.5 / 24, abs=0.005)
    for key in ("Shift+ArrowDown", "Shift+ArrowDown", "Shift+ArrowRight"):
        keys.press(key)
    assert tab.text("#readout").startswith("row 23, column 23: ")  # and no further
    by_key = tab.text("#readout")
    tab.page.mouse.move(sheet["x"] + sheet["width"] - 3, sheet["y"] + sheet["height"] - 3)
    assert tab.text("#readout") == by_key
    assert tab.page.locator("#readout").get_attribute("aria-live") == "off"


def test_plus_minus_and_zero_zoom_and_the_place_stays_in_sight(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    keys = tab.page.keyboard
    tab.page.locator("#stage").focus()
    seen = tab.pixels("#stage")
    for _ in range(5):
        keys.press("+")
    assert tab.text("#zoom-value") == "600 %" and changed(seen, tab.pixels("#stage")) > 0.3
    for _ in range(12):
        keys.press("ArrowRight")
    stage, cursor = (tab.page.locator(f"#{name}").bounding_box() for name in ("stage", "cursor"))
    assert stage["x"] <= cursor["x"] and cursor["x"] + cursor["width"] <= stage["x"] + stage["width"] + 1
    keys.press("-")
    assert tab.text("#zoom-value") == "500 %"
    keys.press("0")
    assert tab.text("#zoom-value") == "100 %"


def test_the_plan_opens_and_is_searched(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    summary = tab.page.locator("details.plan summary").first
    rows = tab.page.locator("#plan-0 tbody tr")
    assert not rows.first.is_visible()
    summary.focus()
    tab.page.keyboard.press("Enter")
    count = rows.count()
    assert rows.first.is_visible() and count == 25 and rows.first.locator("td").first.inner_text() == "Conv2d"
    tab.page.keyboard.press("Tab")
    assert tab.focused() == "find-0"
    tab.page.keyboard.type("CONV zplus name_1")
    visible = [row for row in rows.all() if row.is_visible()]
    names = [row.locator("th").inner_text() for row in visible]
    assert names == [f"a_block_with_a_rather_long_name_{i}.conv2d" for i in (1, 10, 11)]
    assert tab.text("output[for=find-0]") == "3 of 25"
    tab.page.locator("#find-0").fill("no such thing")
    assert tab.text("output[for=find-0]") == "0 of 25" and not any(row.is_visible() for row in rows.all())
    tab.page.locator("#find-0").fill("")
    assert all(row.is_visible() for row in rows.all())


def test_code_is_copied(open_page: Open, page: Path) -> None:
    tab = open_page(page, permissions=["clipboard-read", "clipboard-write"])
    for block in tab.page.locator(".code >> visible=true").all():
        button = block.locator("button")
        button.focus()
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_function("b => b.textContent === 'Copied'", arg=button.element_handle())
        assert tab.ask("navigator.clipboard.readText()") == block.locator("code").inner_text()
        assert tab.text("#copied") == "copied"


def test_words_are_read_with_arrow_keys(open_page: Open, pages: dict[str, Path]) -> None:
    tab = open_page(pages["words"])
    assert not tab.page.locator("#fallback").count()
    first = tab.pixels(".relprop-text .text >> visible=true")
    text = tab.page.locator(".relprop-text .text >> visible=true").first
    text.focus()
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator(".w.at").inner_text() == "old"
    said = tab.page.locator(".text + output >> visible=true").first.inner_text()
    assert said == f"old: {tab.page.locator('.w.at').get_attribute('title')}"
    tab.page.get_by_label("CPLRP").check()
    tab.shows(1)
    assert changed(first, tab.pixels(".relprop-text .text >> visible=true")) > 0.1


# -- looks -------------------------------------------------------------------------------------------------------------

CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    throw new Error("the page has no ground");
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || ['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(e.tagName) || !e.checkVisibility()) continue;
    if (e.closest('.unseen')) continue;
    const one = light(parse(getComputedStyle(e).color)), other = light(ground(e));
    const ratio = Math.max(one, other) / Math.min(one, other);
    if (ratio < 4.5) found.push([text.slice(0, 40), e.className, ratio]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_writing_stands_out(open_page: Open, pages: dict[str, Path], kind: str, scheme: str) -> None:
    tab = open_page(pages[kind], color_scheme=scheme)
    tab.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.ask(CONTRAST) == []


def test_the_contrast_check_finds_pale_writing(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    tab.ask("document.querySelector('h1').style.color = '#999'")
    assert len(tab.ask(CONTRAST)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_dark_differs(open_page: Open, pages: dict[str, Path], kind: str) -> None:
    light, dark = (open_page(pages[kind], color_scheme=scheme) for scheme in ("light", "dark"))
    means = [pixels(tab.page.screenshot()).mean() for tab in (light, dark)]
    assert means[0] > means[1] + 50


def test_the_map_follows_a_change_of_scheme(open_page: Open, tmp_path: Path) -> None:
    tab = open_page(to_html(torch.zeros(1, 1, 9, 9).index_fill_(3, torch.tensor([4]), 1.0), tmp_path / "a.html"))
    light = tab.pixels()
    tab.page.emulate_media(color_scheme="dark")
    tab.settled()
    dark = tab.pixels()
    assert light[20, 20].min() > 230 and dark[20, 20].max() < 40
    tab.page.emulate_media(media="print")  # paper is white
    tab.settled()
    assert tab.pixels()[20, 20].min() > 230


SMALL = """() => [...document.querySelectorAll('button, select, input, summary')]
  .filter((e) => e.checkVisibility({ opacityProperty: true }))
  .map((e) => [e.id || e.className || e.tagName, (e.closest('label') || e).getBoundingClientRect().height])
  .filter(([name, height]) => height < 24)"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [320, 360])
def test_a_phone_needs_no_sideways_scrolling(open_page: Open, pages: dict[str, Path], kind: str, width: int) -> None:
    tab = open_page(pages[kind], viewport={**PHONE, "width": width}, has_touch=True, is_mobile=True)
    tab.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    wide, seen = tab.ask("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert seen == width and wide <= width
    # Nothing that can be pressed is smaller than a fingertip's 24 pixels. [WCAG 2.2, target size]
    small = tab.ask(SMALL)
    assert small == []


def test_a_touch_reads_a_value(open_page: Open, page: Path) -> None:
    tab = open_page(page, viewport=PHONE, has_touch=True, is_mobile=True)
    box = tab.page.locator("#stage").bounding_box()
    tab.page.touchscreen.tap(box["x"] + box["width"] * 6.5 / 24, box["y"] + box["height"] * 3.5 / 24)
    assert tab.text("#readout").startswith("row 3, column 6: ")
    assert tab.page.locator("#cursor").is_visible()


MOVING = """() => [...document.querySelectorAll('*')].map((e) => getComputedStyle(e)).filter((s) =>
  s.animationName !== 'none' || parseFloat(s.transitionDuration) > 0 || s.scrollBehavior !== 'auto').length"""


def test_nothing_moves_by_itself(open_page: Open, page: Path) -> None:
    tab = open_page(page, reduced_motion="reduce")
    tab.page.get_by_label("EpsilonGammaBox").first.check()
    tab.shows(2)
    tab.slide("#zoom", 300)
    assert tab.ask(MOVING) == 0 and tab.ask("document.getAnimations().length") == 0


def test_paper_has_the_map_and_no_controls(open_page: Open, page: Path) -> None:
    tab = open_page(page, color_scheme="dark")
    tab.page.emulate_media(media="print")
    tab.settled()
    for gone in ("fieldset", "button", "#keys"):
        assert not tab.page.locator(gone).first.is_visible()
    for there in ("#stage", "#scale", ".books", ".prediction", "h1", "pre"):
        assert tab.page.locator(there).first.is_visible()
    assert pixels(tab.page.screenshot())[2, 2].min() > 240  # white, also from a dark screen
    printed = tab.page.pdf(print_background=False)
    assert printed.startswith(b"%PDF") and len(printed) > 10_000


def test_without_scripts_one_map_is_there(browser: Any, page: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    shown = context.new_page()
    shown.goto(page.as_uri())
    picture = shown.locator("#fallback")
    assert picture.is_visible() and pixels(picture.screenshot()).std() > 5
    assert shown.locator("table.books").first.is_visible() and not shown.locator("#stage").is_visible()
    context.close()


@pytest.mark.parametrize("broken", ["delete window.DecompressionStream", "window.atob = () => 'no'"])
def test_where_values_cannot_be_unpacked_one_map_is_there(browser: Any, page: Path, broken: str) -> None:
    context = browser.new_context(offline=True)
    context.add_init_script(broken)
    tab = Tab(context.new_page(), page)
    assert tab.pixels("#fallback").std() > 5 and "too old" in tab.text("#caption")
    assert not tab.page.locator("#stage").is_visible() and tab.page.locator("table.books").first.is_visible()
    assert not tab.complaints
    context.close()


# -- names for everything ----------------------------------------------------------------------------------------------

NAMELESS = """() => {
  const spoken = (e) => {
    if (e.tagName === 'OUTPUT') return e.htmlFor.length || e.getAttribute('aria-live') || e.getAttribute('role');
    const labels = [...(e.labels || [])].map((label) => label.textContent).join('');
    const read = ['BUTTON', 'SUMMARY', 'P', 'PRE'].includes(e.tagName) ? e.textContent : '';
    return (labels + read + (e.getAttribute('aria-label') || '') + (e.getAttribute('alt') || '')).trim();
  };
  return [...document.querySelectorAll('input, select, button, img, canvas, svg, [tabindex], summary, output')]
    .filter((e) => e.checkVisibility() && e.getAttribute('aria-hidden') !== 'true' && !spoken(e))
    .map((e) => e.outerHTML.slice(0, 120));
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_everything_has_a_name(open_page: Open, pages: dict[str, Path], kind: str) -> None:
    tab = open_page(pages[kind])
    tab.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.ask(NAMELESS) == []
    assert tab.ask("document.documentElement.lang") == "en" and tab.ask("document.title").strip()
    assert tab.ask("document.querySelectorAll('h1').length") == 1
    levels = tab.ask("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = tab.ask("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    heads = tab.ask("[...document.querySelectorAll('th')].filter(t => !t.scope && t.closest('.top, section')).length")
    assert heads == 0 or kind in ("words", "document", "answer")


# -- no text is run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maps", "list", "features", "tokens", "text", "row"])
def test_no_text_is_run(open_page: Open, tmp_path: Path, name: str) -> None:
    """Were one run, a dialog, a broken picture or a refusal by the page's policy would be heard of."""
    Wicked.__name__ = EVIL
    tab = open_page(wicked_pages(EVIL)[name](tmp_path / "a.html"))
    for switch in tab.page.locator("[data-switch]").all():
        if switch.evaluate("e => e.tagName") == "SELECT":
            switch.select_option(index=1)
        else:
            switch.check()
    tab.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.settled()
    assert EVIL in tab.text("h1") and tab.ask("document.querySelectorAll('script').length") == 2
    assert tab.ask("document.querySelectorAll('img[src=x]').length") == 0
    if name == "maps":
        assert EVIL in tab.page.locator("#caption").text_content()
        assert EVIL in tab.page.locator("#map").get_attribute("aria-label")


def test_the_policy_stops_a_script_that_got_in(browser: Any, page: Path, tmp_path: Path) -> None:
    """Even if a text were not escaped, the browser would refuse to run it."""
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text(encoding="utf-8").replace("<h1", "<script>window.got = 1</script><h1", 1))
    context = browser.new_context(offline=True)
    shown = context.new_page()
    refused: list[str] = []
    shown.on("console", lambda message: refused.append(message.text))
    shown.goto(broken.as_uri())
    shown.wait_for_selector("html[data-shown]")
    assert shown.evaluate("window.got") is None and any("Content Security Policy" in text for text in refused)
    context.close()


def test_a_request_would_be_noticed(browser: Any, page: Path, tmp_path: Path) -> None:
    """The check of every test here, that nothing is asked of a network, can fail."""
    asking = tmp_path / "asking.html"
    text = page.read_text(encoding="utf-8").replace("img-src data:", "img-src data: file:")
    asking.write_text(text.replace("<h1", '<img src="beside.png" alt=""><h1', 1))
    context = browser.new_context(offline=True)
    tab = Tab(context.new_page(), asking)
    assert [url for url in tab.asked if not url.startswith(("data:", "blob:"))] != [tab.address]
    context.close()


def test_screenshots_are_read_as_they_are() -> None:
    image = pytest.importorskip("PIL.Image", reason="screenshots are read with pillow")
    buffer = io.BytesIO()
    image.fromarray(PHOTO).save(buffer, format="PNG")
    assert (pixels(buffer.getvalue()) == PHOTO).all()
