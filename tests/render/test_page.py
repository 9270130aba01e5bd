"""The page: whole in itself, every text escaped, the numbers those of the explanation."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.composite import Decision
from relprop.errors import InputError
from relprop.explain import Audit, Explanation
from relprop.plan import Plan
from relprop.render import page, to_html
from relprop.render.page import account, views
from relprop.site import Site
from relprop.tabular import Result, Results
from relprop.text import TextExplanation, Token

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!--{{7*7}}"
PHOTO = np.full((8, 8, 3), 90, np.uint8)
VOID = {"meta", "img", "input", "br", "rect", "polyline"}


class Page(HTMLParser):
    """The elements of a page with their attributes, its visible text, and its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag not in VOID else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.texts.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if all(a.get(key.replace("_", "-")) == value for key, value in wanted.items())]

    @property
    def data(self) -> dict[str, Any]:
        """What the script works on."""
        return json.loads(self.scripts[0])

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def held(view: dict[str, Any]) -> np.ndarray:
    """The values of a map: deflated, all high bytes of the half floats before all low ones, in units of the strongest.

    Independent of how they were packed: sign, exponent and mantissa are put together here.
    """
    planes = zlib.decompress(base64.b64decode(view["values"]))
    count = view["rows"] * view["columns"]
    found = []
    for high, low in zip(planes[:count], planes[count:], strict=True):
        bits = high << 8 | low
        exponent, mantissa = bits >> 10 & 31, bits & 1023
        size = 2.0 ** (exponent - 15) * (1 + mantissa / 1024) if exponent else 2.0**-14 * mantissa / 1024
        found.append(-size if bits >> 15 else size)
    return np.array(found).reshape(view["rows"], view["columns"]) * view["top"]


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 64, 3)).eval()


@pytest.fixture
def explained(model: nn.Module) -> rp.Explanation:
    return rp.LRP(model, rp.EpsilonPlus()).explain(torch.rand(1, 3, 8, 8), target=1)


# -- what it shows -----------------------------------------------------------------------------------------------------


def test_a_page_shows_input_prediction_audit_plan_and_settings(tmp_path: Path, explained: rp.Explanation) -> None:
    found = Page(explained.to_html(tmp_path / "a.html", image=PHOTO, names=["cat", "dog", "bird"]))
    assert found.all("img", id="photo") and found.all("canvas", id="map")
    for expected in ("Explanation of dog (1)", "Where the relevance went", "biases", "Balanced", "0.conv2d"):
        assert expected in found.text
    for expected in ("ZPlus()", "Conv2d", "torch", "rp.LRP(model, rp.EpsilonPlus())", "target=1"):
        assert expected in found.text
    shares = explained.output.softmax(-1)[0]
    for name, share in zip(["cat (0)", "dog (1)", "bird (2)"], shares.tolist()):
        assert name in found.texts and f"{share:.1%}" in found.texts


def test_the_page_holds_the_values_of_the_map(tmp_path: Path, explained: rp.Explanation) -> None:
    view = Page(to_html(explained, tmp_path / "a.html", image=PHOTO)).data["views"][0]
    wanted = explained.relevance[0].double().sum(0).numpy()
    np.testing.assert_allclose(held(view), wanted, rtol=2**-10, atol=np.abs(wanted).max() * 2**-24)
    assert view["top"] == np.abs(wanted).max()
    assert view["limit"] == pytest.approx(np.percentile(np.abs(wanted), 99.5), rel=1e-12)
    assert tuple(view["strongest"]) == np.unravel_index(np.abs(wanted).argmax(), wanted.shape)


def test_values_of_every_size_keep_three_digits(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, -0.3], [2.5e-4, -6.2e-5]]).repeat(4, 1) * 7e-12
    view = Page(to_html(values[None, None], tmp_path / "a.html")).data["views"][0]
    np.testing.assert_allclose(held(view), values.double().numpy(), rtol=1e-3)


def test_the_books_are_those_of_the_audit() -> None:
    audit = Audit(2.0, {"x": 2.5}, {}, -0.6, 0.0, 0.1, 0.0, scale=3.0, tolerance=1e-3)
    found = account.books(Explanation(torch.ones(1, 3), torch.ones(1, 2), 0, audit, Plan("c", (), ())))
    assert found is not None and found.good
    # From -0.6 to 2.5: zero at 0.6 of 3.1, the input from there to the end, the biases from the start to there.
    zero = 100 * 0.6 / 3.1
    seed, x, bias = found.rows[:3]
    assert (seed.start, seed.length, seed.share) == (pytest.approx(zero), pytest.approx(100 * 2 / 3.1), "100.00%")
    assert (x.start, x.length, x.share) == (pytest.approx(zero), pytest.approx(100 - zero), "125.00%")
    assert (bias.start, bias.length, bias.value) == (pytest.approx(0, abs=1e-12), pytest.approx(zero), "-0.6")
    assert found.rows[-1].share == "0.00%"


def test_an_unbalanced_audit_says_so(tmp_path: Path, explained: rp.Explanation) -> None:
    audit = Audit(2.0, {"x": 1.0}, {}, 0.0, 0.0, 0.0, 0.0, scale=2.0, tolerance=1e-3, sites=(("worst", 1.0),))
    explained.audit = audit
    text = Page(explained.to_html(tmp_path / "a.html")).text
    assert "Not balanced: 5.0e-01" in text and "worst: +1" in text


def test_a_gradient_method_has_no_books(tmp_path: Path, model: nn.Module) -> None:
    found = rp.LRP(model, rp.GuidedBackprop()).explain(torch.rand(1, 3, 8, 8), target=0)
    assert "nothing is conserved" in Page(found.to_html(tmp_path / "a.html")).text


def test_without_a_photograph_the_input_itself_is_shown(tmp_path: Path, model: nn.Module) -> None:
    x = torch.randn(1, 3, 8, 8)
    found = rp.LRP(model, rp.EpsilonPlus()).explain(x, target=0)
    page = Page(found.to_html(tmp_path / "a.html"))
    photo = page.data["photo"]
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))
    assert (photo["low"], photo["high"]) == (pytest.approx(low), pytest.approx(high))
    wanted = np.round((x[0].double().numpy() - low) / (high - low) * 255).sum()
    assert photo["sum"] == pytest.approx(wanted, abs=4)  # rounding of the float32 copy
    assert f"black at {low:.3g}" in page.text
    assert not Page(found.to_html(tmp_path / "a.html", image=False)).all("img", id="photo")


class Pair(nn.Module):
    """Two pictures of one shape, and a row of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, first: Tensor, second: Tensor, row: Tensor) -> Tensor:
        seen: Tensor = self.head((self.conv(first) - self.conv(second)).mean((2, 3)) + row)
        return seen


@pytest.mark.parametrize("which", [None, "0", "second", "row"])
def test_of_several_inputs_the_one_that_is_drawn_is_shown(tmp_path: Path, which: str | None) -> None:
    x, y = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    explained = rp.LRP(Pair().eval(), rp.EpsilonPlus()).explain(x, second=y, row=torch.rand(1, 4), target=0)
    found = Page(explained.to_html(tmp_path / "a.html", which=which))
    if which == "row":
        assert not found.all("canvas") and "feature 3" in found.texts
        return
    assert found.data["photo"]["sum"] == pytest.approx(float(255 * (y if which == "second" else x).sum()), abs=96)
    drawn = explained.relevance[which or "0"][0].double().sum(0).numpy()
    np.testing.assert_allclose(held(found.data["views"][0]), drawn, rtol=1e-3, atol=1e-7)


def test_predictions_of_a_thousand_classes() -> None:
    output = torch.randn(1, 1000)
    found = account.prediction(Explanation(None, output, torch.tensor([int(output.argmin())]), None, None), 0, ())  # type: ignore[arg-type]
    assert found is not None and found.count == 1000 and len(found.rows) == 6
    order = output[0].argsort(descending=True)
    assert [row.label for row in found.rows] == [f"target {i}" for i in (*order[:5].tolist(), int(order[-1]))]
    assert [row.mark for row in found.rows] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("output", "shares", "said"),
    [
        (torch.tensor([[0.2, 0.8]]), ["80.0%", "20.0%"], "own"),  # probabilities already
        (torch.tensor([[1.0, 1.0 + np.log(3.0)]]), ["75.0%", "25.0%"], "softmax"),
        (torch.tensor([[0.004, 0.004]]), ["50.0%", "50.0%"], "softmax"),  # small logits
    ],
)
def test_shares(output: Tensor, shares: list[str], said: str) -> None:
    found = account.prediction(Explanation(None, output, 0, None, None), 0, ())  # type: ignore[arg-type]
    assert found is not None and [row.share for row in found.rows] == shares and said in found.note


def test_shares_of_several_labels() -> None:
    """They do not add up to one: that they are probabilities is known from the model's sigmoid."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())
    explained = rp.LRP(net).explain(torch.randn(1, 4), target=1)
    found = account.prediction(explained, 0, ())
    assert found is not None and "own" in found.note
    assert {row.share for row in found.rows} == {f"{p:.1%}" for p in explained.output[0].tolist()}


@pytest.mark.parametrize("output", [torch.ones(1, 1), torch.ones(2), torch.tensor([[1.0, torch.nan]]), None, "x"])
def test_what_is_no_row_of_classes_has_no_prediction(output: Any) -> None:
    assert account.prediction(Explanation(None, output, 0, None, None), 0, ()) is None  # type: ignore[arg-type]


def test_a_row_of_numbers_of_which_none_is_a_class_has_no_prediction() -> None:
    found = Explanation(None, torch.randn(1, 384), "the chosen target", None, None)  # type: ignore[arg-type]
    assert account.prediction(found, 0, ()) is None
    assert account.prediction(found, 0, [f"class {i}" for i in range(384)]) is not None


# -- several -----------------------------------------------------------------------------------------------------------


def test_rules_and_targets_are_switches_of_their_own(tmp_path: Path, model: nn.Module) -> None:
    x, rules = torch.rand(1, 3, 8, 8), (rp.EpsilonPlus(), rp.UniformEpsilon(), rp.EpsilonPlusFlat())
    several = [rp.LRP(model, one).explain(x, target=t) for one in rules for t in (2, 0)]
    found = Page(to_html(several, tmp_path / "a.html", names=["a", "b", "c"]))
    radios = [(r["name"], r["value"], "checked" in r) for r in found.all("input", type="radio")]
    assert radios == [(f"switch-{k}", str(i), i == 0) for k, n in (("rules", 3), ("target", 2)) for i in range(n)]
    assert [tuple(view["place"]) for view in found.data["views"]] == [(r, t) for r in range(3) for t in range(2)]
    for view, one in zip(found.data["views"], several):
        np.testing.assert_allclose(held(view), one.relevance[0].sum(0).numpy(), rtol=1e-3, atol=1e-7)
    plans = [a["data-views"] for a in found.all("section") if a.get("data-views")]
    assert plans == ["0 2 4", "1 3 5", "0", "1", "2", "3", "4", "5", "0 1", "2 3", "4 5"]  # predictions, books, plans


def test_other_names_make_one_list(tmp_path: Path, explained: rp.Explanation) -> None:
    found = Page(to_html({"one": explained, "two": explained}, tmp_path / "a.html"))
    assert [r["value"] for r in found.all("input", type="radio")] == ["0", "1"]
    named = {("A", "cat"): explained, ("A", "dog"): explained, ("B", "cat"): explained}
    assert "A · dog" in Page(to_html(named, tmp_path / "a.html")).texts


def test_a_thousand_explanations_are_chosen_from_a_list(tmp_path: Path) -> None:
    several = {f"class {i}": torch.randn(1, 1, 4, 4) for i in range(1000)}
    found = Page(to_html(several, tmp_path / "a.html"))
    assert len(found.all("option")) == 1000 and not found.all("input", type="radio")
    assert len(found.data["views"]) == 1000


def test_the_code_to_repeat_it_runs(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = torch.rand(1, 3, 8, 8)
    for rules in (rp.EpsilonPlus(), rp.EpsilonGammaBox(low=-1.0, high=2.0), rp.Gamma(0.5), rp.ResLRP()):
        wanted = rp.LRP(model, rules).explain(x, target=2)
        scope: dict[str, Any] = {"model": model, "x": x}
        exec(account.snippet(wanted, 0), scope)
        torch.testing.assert_close(scope["e"].relevance, wanted.relevance, rtol=0, atol=0)
        assert (tmp_path / "explanation.html").is_file()
    box = rp.EpsilonGammaBox(low=torch.tensor([-1.0, -2.0, -3.0]).view(1, 3, 1, 1), high=2.0)
    said = account.snippet(rp.LRP(model, box).explain(x, target=2), 0)
    assert "rp.EpsilonGammaBox(low=..., high=2.0))  # ... stands for a tensor" in said


@pytest.mark.parametrize(
    "name", ["my rules", "Composite", "__import__('os').system('ls')", "EpsilonPlus(x)", "(" * 999]
)
def test_what_is_no_preset_is_no_code(name: str) -> None:
    assert account.written_rules(name) is None


# -- nothing from elsewhere, nothing run -------------------------------------------------------------------------------


def check_closed(found: Page) -> None:
    """Nothing is loaded from elsewhere, and the page's policy lets its own script run and no other."""
    for text in ("http://", "https://", "url(", "@import"):
        assert text not in found.source
    for _, attributes in found.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(str(m["content"]) for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_nothing_comes_from_elsewhere(tmp_path: Path, explained: rp.Explanation) -> None:
    check_closed(Page(to_html(explained, tmp_path / "a.html", image=PHOTO)))


class Wicked(nn.Module):
    """A module whose name is HTML."""


Wicked.__name__ = EVIL


def wicked(text: str) -> Explanation:
    """An explanation in which every text that a user can choose is `text`."""
    site = Site((text,), Wicked, text, text, "linear", 0, notes=[text])
    plan = Plan(text, (site,), (Decision(text, text, 0),), ((text, text),), (text,))
    books = Audit(1.0, {text: 0.2}, {text: 0.1}, 0, 0, 0, 0, 1, 1e-3, True, ((text, text),), ((text, 1.0),), (text,))
    return Explanation(torch.randn(1, 3, 8, 8), torch.randn(1, 3), text, books, plan)


def wicked_pages(text: str) -> dict[str, Callable[[Path], Path]]:
    """Pages into which a text comes by every way that there is."""
    maps = {(text, text): wicked(text), (text, text + "2"): wicked(text)}
    chosen: dict[str, Any] = {"title": text, "subtitle": text, "settings": {text: text}, "command": text}
    bars = wicked(text)
    bars.relevance = torch.randn(1, 3)
    words = wicked(text)
    words.relevance = torch.randn(1, 3, 4)
    told = TextExplanation(
        [Token(0, text, text), Token(1, text, " " + text, special=True)],
        torch.randn(2),
        1.0,
        text,
        bars.audit,
        bars.plan,
        ((text, 0.5),),
        (text,),
    )
    row = Result((text, "b"), np.array([text, "1"]), np.array([1.0, 2.0]), 0, text, 1.0, text, label=text)
    return {
        "maps": lambda p: to_html(maps, p, image=PHOTO, names=[text] * 3, **chosen),
        "list": lambda p: to_html({f"{text}{i}": wicked(text) for i in range(12)}, p, **chosen),
        "features": lambda p: to_html(bars, p, features=[text] * 3, **chosen),
        "tokens": lambda p: to_html(words, p, tokens=[text] * 3, **chosen),
        "text": lambda p: to_html({text: told, "b": told}, p, **chosen),
        "row": lambda p: to_html({text: row, "b": row}, p, **chosen),
    }


@pytest.mark.parametrize("name", ["maps", "list", "features", "tokens", "text", "row"])
def test_every_text_is_escaped(tmp_path: Path, name: str) -> None:
    """A page full of HTML has the elements of a page full of words, and shows the HTML as it was written."""
    Wicked.__name__ = "harmless"
    plain = Page(wicked_pages("harmless")[name](tmp_path / "a.html"))
    Wicked.__name__ = EVIL
    found = Page(wicked_pages(EVIL)[name](tmp_path / "b.html"))
    check_closed(found)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in found.elements] == [sorted(a) for _, a in plain.elements]
    assert found.scripts[1:] == plain.scripts[1:] and len(found.scripts) == 2
    shown = " ".join([*found.texts, *(value or "" for _, a in found.elements for value in a.values())])
    before = " ".join([*plain.texts, *(value or "" for _, a in plain.elements for value in a.values())])
    assert shown.replace("␣", " ").count(EVIL) >= before.count("harmless") > 8
    assert "49" not in shown.replace(EVIL, "").split()  # no text is a template either


def test_the_check_finds_what_is_not_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from relprop.render.page import document

    document._environment.cache_clear()
    monkeypatch.setattr(document._environment(), "autoescape", False)
    try:
        with pytest.raises(AssertionError):
            check_closed(Page(wicked_pages(EVIL)["maps"](tmp_path / "a.html")))
    finally:
        document._environment.cache_clear()


@pytest.mark.parametrize("sign", ["\u202e", "\x1b", "\x08", "\u2066", "\x85"])
def test_signs_that_steer_the_display_are_shown(tmp_path: Path, sign: str) -> None:
    Wicked.__name__ = sign
    for make in wicked_pages(f"a{sign}b").values():
        found = Page(make(tmp_path / "a.html"))
        assert sign not in found.source
        assert all(sign not in view["rules"] + view["target"] for view in found.data["views"])


# -- size --------------------------------------------------------------------------------------------------------------


def test_six_maps_of_a_photograph_stay_below_five_megabytes(tmp_path: Path) -> None:
    """Of noise, which nothing makes smaller: a photograph of 512 x 512 and six maps, with plans of 300 operations."""
    photo = torch.randint(0, 256, (512, 512, 3), dtype=torch.uint8)
    site = Site(("blocks.0.depthwise.conv",), nn.Conv2d, "conv", "conv2d", "linear", 0)
    plan = Plan("rules", (site,) * 300, (Decision(rp.ZPlus(), "row 1: Kind(conv)", 1),) * 300)
    audit = wicked("x").audit
    several = {
        (f"rules {i}", f"target {t}"): Explanation(torch.randn(1, 3, 512, 512), torch.randn(1, 1000), t, audit, plan)
        for i in range(3)
        for t in range(2)
    }
    path = to_html(several, tmp_path / "a.html", image=photo)
    assert len(Page(path).data["views"]) == 6
    assert path.stat().st_size < 5e6


def test_large_maps_are_shown_in_blocks_that_keep_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from relprop.render.page import document

    monkeypatch.setattr(document, "_MOST_OF_ONE", 50)
    values = torch.randn(1, 1, 11, 13, dtype=torch.float64)
    found = Page(to_html(values, tmp_path / "a.html", image=np.zeros((22, 26)), percentile=100))
    view = found.data["views"][0]
    assert (view["block"], view["rows"], view["columns"], view["shape"]) == (2, 6, 7, [11, 13])
    wanted = np.array([[values[0, 0, i : i + 2, j : j + 2].sum() for j in range(0, 13, 2)] for i in range(0, 11, 2)])
    np.testing.assert_allclose(held(view), wanted, rtol=1e-3, atol=1e-7)
    assert float(view["sum"]) == pytest.approx(float(values.sum()), rel=1e-3)
    assert view["limit"] == pytest.approx(np.abs(wanted).max())
    assert "the sum of 2 x 2" in found.text


def test_large_photographs_are_kept_as_jpeg(tmp_path: Path) -> None:
    photo = torch.randint(0, 256, (600, 600, 3), dtype=torch.uint8)
    found = Page(to_html(torch.randn(1, 1, 60, 60), tmp_path / "a.html", image=photo))
    assert str(found.all("img", id="photo")[0]["src"]).startswith("data:image/jpeg")
    assert found.data["photo"]["exact"] is False and found.data["photo"]["sum"] == int(photo.sum())


# -- other kinds -------------------------------------------------------------------------------------------------------


def test_a_row_of_a_table(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    x = torch.randn(3, 4)
    explained = rp.LRP(net, rp.UniformEpsilon()).explain(x, target=torch.tensor([0, 1, 1]))
    found = Page(explained.to_html(tmp_path / "a.html", sample=1, features=["age", "size", "dose", "sex"]))
    assert not found.all("canvas") and "Explanation of target 1" in found.text
    for name, value, relevance in zip(["age", "size"], x[1].tolist(), explained.relevance[1].tolist()):
        assert name in found.texts and f"{value:.4g}" in found.texts and f"{relevance:+.4g}" in found.texts
    assert "all 3 samples" in found.text


def test_a_table_s_result(tmp_path: Path) -> None:
    row = Result(("a", "b"), np.array([1.5, 2.5]), np.array([-1.0, 3.0]), 0, "yes", 2.5, "UniformEpsilon()")
    found = Page(to_html(row, tmp_path / "a.html"))
    for expected in ("Explanation of yes", "1.5", "+3", "biases and stabilisers", "0.5"):
        assert expected in found.text


def test_rows_of_a_table_are_switched_between_by_their_labels(tmp_path: Path) -> None:
    rows = [Result(("a", "b"), np.ones(2), np.full(2, i), 0, "yes", 1.0, "Zero()", label=f"r{i}") for i in range(3)]
    found = Page(to_html(Results(rows), tmp_path / "a.html"))
    assert [view["rules"] for view in found.data["views"]] == ["row r0", "row r1", "row r2"]


def test_a_thousand_features_are_folded(tmp_path: Path) -> None:
    found = Page(to_html(torch.randn(1, 1000), tmp_path / "a.html"))
    assert "The other 980 features" in found.texts and len(found.all("tr")) == 1001


def test_a_signal_is_a_map_with_its_curve(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 28, 2)).eval()
    x = torch.randn(1, 2, 30)
    explained = rp.LRP(net, rp.EpsilonPlus()).explain(x, target=0)
    found = Page(explained.to_html(tmp_path / "a.html"))
    view = found.data["views"][0]
    np.testing.assert_allclose(held(view), explained.relevance[0].numpy(), rtol=1e-3, atol=1e-7)
    lines = found.all("polyline")
    assert len(lines) == 4 and view["axes"] == ["channel", "step"]  # two each, the lower one a halo
    points = np.array([[float(n) for n in p.split(",")] for p in str(lines[2]["points"]).split()])
    curve = x[0, 1].double().numpy()
    np.testing.assert_allclose(points[:, 0], np.arange(30) + 0.5)
    np.testing.assert_allclose(1.9 - points[:, 1], 0.8 * (curve - curve.min()) / np.ptp(curve), atol=1e-3)


def test_long_signals_keep_their_peaks() -> None:
    curve = np.zeros((1, 100_001))
    curve[0, 70_123], curve[0, 30_457] = 5.0, -3.0
    points = [p.split(",") for p in views.curve_points(curve)[0].split()]
    assert len(points) <= 2000
    heights = [float(y) for _, y in points]
    assert min(heights) == pytest.approx(0.1) and max(heights) == pytest.approx(0.9)


def test_tokens(tmp_path: Path) -> None:
    relevance = torch.randn(1, 3, 5)
    found = Page(to_html(relevance, tmp_path / "a.html", tokens=["one", "two", "three"]))
    shown = {a["title"] for a in found.all("span") if "w" in str(a.get("class", "")).split()}
    assert shown == {f"{value:+.3g}" for value in relevance[0].sum(-1).tolist()}


def test_volumes_are_drawn_as_a_picture(tmp_path: Path) -> None:
    found = Page(to_html(torch.randn(1, 2, 4, 5, 6), tmp_path / "a.html"))
    assert found.all("img", alt="relevance by relevance") and not found.all("canvas")


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 1, 500), (1, 3, 500, 1), (1, 1, 1), (1, 1), (2, 3, 1, 1)])
def test_small_and_narrow_maps_have_a_frame_that_can_be_seen(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = Page(to_html(torch.randn(shape), tmp_path / "a.html"))
    for view in found.data["views"]:
        assert 1 / 3 <= view.get("ratio", 1) <= 6


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 2, 30), (1, 5)])
def test_relevance_of_zeros_says_so(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = Page(to_html(torch.zeros(shape), tmp_path / "a.html"))
    if len(shape) == 2:
        assert "No relevance: every value is zero." in found.texts
    else:
        assert found.data["views"][0]["limit"] == 0  # the browser's tests look at what is drawn


def test_words_of_no_relevance_say_so(tmp_path: Path) -> None:
    assert "zero everywhere" in Page(to_html(torch.zeros(1, 2), tmp_path / "a.html", tokens=["a", "b"])).text


ONES = torch.ones(1, 3, 4, 4)
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "suffix": (lambda p: to_html(ONES, p / "a.png"), "written as .html"),
    "folder": (lambda p: to_html(ONES, p / "no" / "a.html"), "no folder"),
    "nothing": (lambda p: to_html({}, p / "a.html"), "no explanations"),
    "no list": (lambda p: to_html([], p / "a.html"), "no explanations"),
    "a word": (lambda p: to_html("cat", p / "a.html"), "made of explanations or of relevance, got str"),
    "none": (lambda p: to_html([None], p / "a.html"), "made of explanations or of relevance, got NoneType"),
    "photograph": (lambda p: to_html(ONES, p / "a.html", np.ones((4, 9))), "map is 4 x 4"),
    "normalised": (lambda p: to_html(ONES, p / "a.html", torch.full((3, 4, 4), -2.0)), "before it was normalised"),
    "one of two": (lambda p: to_html([ONES, torch.ones(1, 3, 4, 9)], p / "a.html", np.ones((4, 4))), "map is 4 x 9"),
    "infinite": (lambda p: to_html(torch.full((1, 3, 4, 4), torch.inf), p / "a.html"), "not finite"),
    "nan bar": (lambda p: to_html(torch.tensor([[1.0, torch.nan]]), p / "a.html"), "not finite"),
    "nan signal": (lambda p: to_html(torch.full((1, 2, 9), torch.nan), p / "a.html"), "not finite"),
    "nan words": (lambda p: to_html(torch.full((1, 2), torch.nan), p / "a.html", tokens=["a", "b"]), "not finite"),
    "empty": (lambda p: to_html(torch.ones(1, 3, 0, 4), p / "a.html"), "relevance is empty"),
    "empty batch": (lambda p: to_html(torch.ones(0, 3, 4, 4), p / "a.html"), "relevance is empty"),
    "sample": (lambda p: to_html(torch.ones(2, 3, 4, 4), p / "a.html", sample=2), "sample 2 is out of range"),
    "no text": (lambda p: to_html(torch.ones(1, 0), p / "a.html", tokens=[]), "is empty"),
    "tokens": (lambda p: to_html(torch.ones(1, 3), p / "a.html", tokens=["a"]), "3 tokens were explained, but 1"),
    "features": (lambda p: to_html(torch.ones(1, 3), p / "a.html", features=["a"]), "3 features .* but 1 names"),
    "kind": (lambda p: to_html(ONES, p / "a.html", kind="cube"), "unknown kind 'cube'"),
    "colours": (lambda p: to_html(ONES, p / "a.html", colours="relevanse"), "nearest names: relevance"),
    "percentile": (lambda p: to_html(ONES, p / "a.html", percentile=0), "percentile must be above 0"),
    "reduction": (lambda p: to_html(ONES, p / "a.html", reduce="mean"), "unknown reduction 'mean'"),
    "which": (lambda p: to_html({"a": {"x": ONES}}, p / "a.html", which="y"), "no explained input 'y'"),
    "names": (
        lambda p: to_html(Explanation(ONES, torch.ones(1, 3), 0, None, None), p / "a.html", names=["a"]),  # type: ignore[arg-type]
        "1 class names were given, but the output has 3",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(tmp_path: Path, name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(InputError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_its_package_the_page_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(rp.MissingExtraError, match=r"writing a page needs the package 'jinja2'.*relprop\[render\]"):
        page.to_html(ONES, tmp_path / "a.html")
