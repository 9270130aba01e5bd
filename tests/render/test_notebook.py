"""Rich displays: what IPython shows of explanations, plans, audits and results of tables."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp
from relprop.errors import InputError
from relprop.render import grid, notebook, pixels
from relprop.tabular import Comparison, Result, Results
from tests.render.test_figure import pictures

EVIL = "<script>alert('x')</script>\u202e\x07"
image = pytest.importorskip("PIL.Image", reason="reading pictures needs pillow")


class Evil(nn.Module):
    """A network whose parts have names that are HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("<img src=x onerror=alert(1)>", nn.Linear(6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, "<img src=x onerror=alert(1)>")(x.flatten(1)).detach() + next(self.children())(
            x.flatten(1)
        )


def explained(shape: tuple[int, ...] = (1, 1, 2, 3)) -> rp.Explanation:
    torch.manual_seed(0)
    return rp.LRP(Evil().double(), rp.UniformEpsilon()).explain(torch.randn(shape, dtype=torch.float64), target=1)


class Checked(HTMLParser):
    """Collects elements and text, and whether all that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.seen.append(tag)
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown_by_ipython(thing: object) -> dict[str, Any]:
    formatters = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    data, _ = formatters.DisplayFormatter().format(thing)
    return data


def picture_in(text: str) -> np.ndarray:
    found = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert found, "no picture"
    with image.open(io.BytesIO(base64.b64decode(found[1]))) as opened:
        return np.asarray(opened.convert("RGB"))


def test_ipython_shows_html_and_plain_text() -> None:
    found = explained()
    for thing in (found, found.plan, found.audit):
        data = shown_by_ipython(thing)
        assert data["text/plain"] == str(thing)
        Checked(data["text/html"])


def test_an_explanation_is_its_picture_with_the_books_and_the_plan() -> None:
    found = explained()
    text = notebook.explanation(found)
    x = found.inputs
    stretched = (x - x.min()) / (x.max() - x.min())
    drawn = rp.render.picture(found, image=stretched, title="", photo_title="input, stretched to its range")
    np.testing.assert_array_equal(picture_in(text), pixels(drawn))
    page = Checked(text)
    assert "target 1 · by UniformEpsilon" in page.text and "audit: balanced" in page.text
    assert "biases" in page.text and "Epsilon(" in page.text


def test_every_image_of_a_batch_stands_beside_its_map() -> None:
    found = explained((3, 1, 2, 3))
    assert pictures(notebook._with_input(found))[0].max() == 255 and len(pictures(notebook._with_input(found))) == 6
    found.inputs = torch.zeros_like(found.inputs)  # nothing to stretch
    assert len(pictures(notebook._with_input(found))) == 6
    found.inputs = [found.inputs]
    assert len(pictures(notebook._with_input(found))) == 3


def test_an_audit_shows_every_entry_with_its_share_and_bar() -> None:
    found = explained().audit
    page = Checked(notebook.audit(found))
    for name, value in found.rows():
        assert (
            name in page.text
            and f"{value:+.4g}" in page.text
            and f"{round(100 * value / abs(found.seed), 2) + 0.0:g} %" in page.text
        )
    widths = [float(w) for w in re.findall(r'class="bar" style="width: ([\d.]+)%', notebook.audit(found))]
    assert max(widths) == 100 and len(widths) == sum(value != 0 for _, value in found.rows())


def test_an_audit_that_does_not_balance_stands_out() -> None:
    from dataclasses import replace

    bad = replace(explained().audit, bias=5.0)
    assert "NOT BALANCED" in notebook.audit(bad) and 'class="bad"' in notebook.audit(bad)
    assert "note: &lt;b&gt;" in notebook.audit(replace(bad, notes=("<b>",)))
    gradient = replace(bad, conserving=False)
    assert "nothing is conserved" in notebook.audit(gradient)


def test_a_plan_shows_counts_every_site_and_cuts() -> None:
    found = explained().plan
    page = Checked(notebook.plan(found))
    for row in found.rows():
        assert all(cell in page.text for cell in row)
    assert "cut (no relevance passes)" in page.text


def results() -> Results:
    names = (EVIL, "pay", *(f"f{i}" for i in range(20)))
    rows = np.random.default_rng(0).normal(size=(4, 22))
    return Results([Result(names, 2 * r, r, 0, EVIL, float(r.sum()), EVIL, {}, EVIL) for r in rows])


def test_results_of_tables_add_up() -> None:
    found = results()
    page = Checked(notebook.row(found[0]))
    assert "7 others together" in page.text and "biases and stabilisers" in page.text
    numbers = [float(n) for n in re.findall(r'">([^<]+)</td><td class="track"', notebook.row(found[0]))]
    assert abs(sum(numbers[:-1]) - found[0].output) < 0.01 and abs(numbers[-1] - found[0].output) < 0.01
    assert picture_in(notebook.rows(found)).size and "no rows" in notebook.rows(Results([]))
    assert shown_by_ipython(found)["text/html"] == notebook.rows(found)
    assert shown_by_ipython(found)["text/plain"].startswith("<Results: 4 rows by ")
    assert shown_by_ipython(found[0])["text/plain"] == str(found[0])
    compared = Comparison({"epsilon": found[0], EVIL: found[1]})
    assert picture_in(shown_by_ipython(compared)["text/html"]).size
    assert "no picture: there is nothing to draw" in notebook.comparison(Comparison())


@pytest.mark.parametrize(
    "make",
    [
        lambda: notebook.explanation(explained()),
        lambda: notebook.plan(explained().plan),
        lambda: notebook.audit(explained().audit),
        lambda: notebook.row(results()[0]),
        lambda: notebook.rows(results()),
    ],
    ids=["explanation", "plan", "audit", "row", "rows"],
)
def test_no_text_becomes_an_element(make: Any) -> None:
    text = make()
    page = Checked(text)
    assert set(page.seen) <= {
        "style", "div", "p", "table", "tr", "td", "th", "span", "details", "summary", "img", "tbody"
    }  # fmt: skip
    assert page.seen.count("img") <= 1 and "\u202e" not in text and "\x07" not in text


@pytest.mark.parametrize(
    "relevance", [torch.zeros(1, 1, 1, 1, 1, 1), torch.full((1, 3, 2, 2), float("nan")), torch.zeros(0, 3)]
)
def test_what_cannot_be_drawn_is_said_and_raises_nothing(relevance: torch.Tensor) -> None:
    found = explained()
    found.relevance = relevance
    assert "no picture: " in Checked(notebook.explanation(found)).text


def test_a_figure_shows_itself_in_a_notebook() -> None:
    figure = grid([np.eye(3)])
    assert shown_by_ipython(figure)["image/png"].startswith(b"\x89PNG")
    import pickle

    np.testing.assert_array_equal(pixels(pickle.loads(pickle.dumps(figure))), pixels(figure))


def test_a_picture_is_shown_in_a_kernel_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display", reason="IPython is not installed")
    shown: list[Any] = []
    monkeypatch.setattr("relprop.render.explanation._in_notebook", lambda: True)
    monkeypatch.setattr(display, "display", shown.append)
    explained().show()
    assert shown[0].data.startswith(b"\x89PNG")


def test_kernels_are_known_by_their_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from relprop.render.explanation import _in_notebook

    kernel = type("Shell", (type("ZMQInteractiveShell", (), {}),), {})
    for shell, known in ((kernel(), True), (type("TerminalInteractiveShell", (), {})(), False), (None, False)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert _in_notebook() == known


def test_a_figure_too_large_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="show fewer at a time"):
        grid(np.zeros((1500, 2, 2))[:, None])


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embedding(ids).sum((1, 2))[:, None]


def test_explained_ids_are_drawn_token_by_token() -> None:
    found = rp.LRP(Embeds()).explain(torch.tensor([[1, 2, 3, 4, 5]]), target=0)
    assert found.relevance.shape == (1, 5, 4)
    drawn = rp.render.picture(found)
    np.testing.assert_array_equal(pixels(drawn), pixels(rp.render.picture(found, kind="tokens")))
