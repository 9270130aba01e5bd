"""The page: whole in itself, every text escaped, the values those of the map."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp
from relprop.errors import InputError
from relprop.render import to_html

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def explained() -> rp.Explanation:
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 64, 3)).eval()
    return rp.LRP(model, rp.EpsilonPlus()).explain(torch.rand(1, 3, 8, 8), target=1)


PHOTO = np.full((8, 8, 3), 90, np.uint8)


def test_a_page_shows_map_audit_plan_and_settings(tmp_path: Path, explained: rp.Explanation) -> None:
    path = explained.to_html(tmp_path / "a.html", image=PHOTO)
    page = Page(path.read_text(encoding="utf-8"))
    assert [image["class"] for image in page.all("img")] == ["photo", "map"]
    text = " ".join(page.texts)
    for expected in ("target 1", "Where the relevance went", "biases", "balanced", "0.conv2d", "ZPlus()", "torch", "±"):
        assert expected in text


def test_the_page_holds_the_values_of_the_map(tmp_path: Path, explained: rp.Explanation) -> None:
    text = to_html(explained, tmp_path / "a.html", image=PHOTO).read_text(encoding="utf-8")
    held = json.loads(re.search(r"<script id=values[^>]*>(.*?)</script>", text).group(1))[0]  # type: ignore[union-attr]
    whole = np.frombuffer(base64.b64decode(held["data"]), "<i2").reshape(held["height"], held["width"])
    wanted = explained.relevance[0].sum(0).numpy()
    np.testing.assert_allclose(whole / 32767 * held["top"], wanted, atol=np.abs(wanted).max() / 32000)


def test_nothing_comes_from_elsewhere(tmp_path: Path, explained: rp.Explanation) -> None:
    text = to_html(explained, tmp_path / "a.html", image=PHOTO).read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(meta["content"] for meta in page.all("meta") if "content" in meta and "default-src" in str(meta))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_every_text_is_escaped(tmp_path: Path, explained: rp.Explanation) -> None:
    plain = Page(to_html({"a": explained, "b": explained}, tmp_path / "a.html").read_text(encoding="utf-8"))
    model = nn.Sequential()
    model.add_module(EVIL.replace(".", ""), nn.Linear(64, 2))
    path = rp.LRP(nn.Sequential(nn.Flatten(1), model), rp.UniformEpsilon(1e-6)).explain(torch.rand(1, 1, 8, 8))
    text = to_html({EVIL: path, "b": path}, tmp_path / "b.html", title=EVIL, subtitle=EVIL).read_text(encoding="utf-8")
    page = Page(text)
    assert EVIL in page.texts and any(EVIL in said for said in page.texts if "linear" in said)  # shown as it is
    assert len(page.all("script")) == len(plain.all("script")) == 2
    assert {name for name, _ in page.elements} <= {name for name, _ in plain.elements} | {"p"}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_several_maps_can_be_switched_between(tmp_path: Path, explained: rp.Explanation) -> None:
    page = Page(to_html({"one": explained, "two": explained}, tmp_path / "a.html").read_text(encoding="utf-8"))
    radios = [attributes for attributes in page.all("input") if attributes["type"] == "radio"]
    assert [radio["value"] for radio in radios] == ["0", "1"]
    assert ["hidden" in image for image in page.all("img")] == [False, True]


def test_six_maps_of_a_photograph_stay_below_five_megabytes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    photo = torch.randint(0, 256, (224, 224, 3), generator=generator, dtype=torch.uint8)
    maps = {str(i): torch.randn(1, 3, 224, 224, generator=generator) for i in range(6)}
    assert to_html(maps, tmp_path / "a.html", image=photo).stat().st_size < 5e6


@pytest.mark.parametrize("shape", [(1, 7), (1, 2, 30), (1, 2, 4, 5, 6), (1, 1, 1, 1)])
def test_other_kinds_and_one_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    page = Page(to_html(torch.randn(shape), tmp_path / "a.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 1


def test_a_map_of_zeros_says_so(tmp_path: Path) -> None:
    assert "no relevance: every value is zero" in to_html(torch.zeros(1, 3, 4, 4), tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: to_html(torch.ones(1, 3, 4, 4), p / "a.png"), "written as .html"),
        (lambda p: to_html(torch.ones(1, 3, 4, 4), p / "no" / "a.html"), "no folder"),
        (lambda p: to_html({}, p / "a.html"), "no explanations"),
        (lambda p: to_html(torch.ones(1, 3, 4, 4), p / "a.html", image=np.ones((4, 9))), "map is 4 x 4"),
        (lambda p: to_html(torch.full((1, 3, 4, 4), torch.inf), p / "a.html"), "not finite"),
        (lambda p: to_html(torch.ones(2, 3, 4, 4), p / "a.html", sample=2), "sample 2 is out of range"),
    ],
)
def test_bad_input(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []
