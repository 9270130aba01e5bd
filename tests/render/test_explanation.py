"""Which drawing an explanation gets, from the shape of what was explained."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relprop import Explanation, render
from relprop.errors import InputError
from relprop.render import grid, heatmap, picture, to_html
from relprop.render.explanation import choose_input
from tests.render.test_figure import pictures, texts


@dataclass
class Explained:
    """What `picture` reads of an explanation."""

    relevance: Any
    target: Any = None


def test_an_image_with_its_photograph(tmp_path: Path) -> None:
    relevance = torch.randn(1, 3, 6, 6)
    photo = np.zeros((6, 6, 3), np.uint8)
    figure = picture(Explained(relevance, torch.tensor([281])), tmp_path / "a.png", photo, percentile=100)
    shown = pictures(figure)
    np.testing.assert_array_equal(shown[0], photo)
    np.testing.assert_array_equal(shown[1], heatmap(relevance))
    assert "target 281" in texts(figure)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_batch_with_a_target_each() -> None:
    explained = Explained(torch.randn(3, 1, 4, 4), torch.tensor([5, 6, 7]))
    written = texts(picture(explained))
    assert "sample 0 · target 5" in written and "sample 2 · target 7" in written
    photos = torch.zeros(3, 1, 4, 4)
    assert len(pictures(picture(explained, image=photos))) == 6
    assert len(pictures(picture(explained, image=photos, sample=1))) == 2


def test_a_large_batch_says_how_many_are_shown() -> None:
    figure = picture(torch.randn(20, 1, 2, 2))
    assert len(pictures(figure)) == 12 and "the first 12 of 20 samples" in texts(figure)


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((2, 7), None, "feature 3"),
        ((7,), None, "feature 3"),
        ((2, 3, 9), None, "channel 2"),
        ((1, 2, 3, 4, 5), None, "depth"),
        ((1, 5, 8), "tokens", "sum"),
        ((4, 5), "image", "sum"),
    ],
)
def test_the_drawing_follows_the_shape(shape: tuple[int, ...], kind: Any, expected: str) -> None:
    assert expected in texts(picture(torch.randn(shape), kind=kind))


def test_one_of_several_inputs() -> None:
    explained = Explained({"image": torch.randn(1, 3, 4, 4), "table": [torch.randn(1, 5)]})
    assert "image" in texts(picture(explained))
    assert "table[0]" in texts(picture(explained, which="table[0]"))
    with pytest.raises(InputError, match=r"no explained input 'tables'; there are 'image', 'table\[0\]'"):
        picture(explained, which="tables")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: picture(torch.zeros(1, 2, 3, 4, 5, 6)), "give kind=, one of image"),
        (lambda: picture(torch.tensor(1.0)), "give kind="),
        (lambda: picture({}), "no relevance to draw"),
        (lambda: picture(torch.zeros(2, 3), sample=2), "sample 2 is out of range: there are 2"),
        (lambda: picture(torch.ones(2, 3, 4), image=torch.ones(3, 3, 4)), "2 samples were explained, but 3"),
        (lambda: picture(torch.ones(2, 3, 4), image=torch.ones(3, 4)), "in a list"),
        (lambda: picture(torch.full((1, 3, 2, 2), float("nan"))), "12 NaN"),
        (lambda: picture(torch.ones(1, 3, 2, 2), smoth=2), "no option 'smoth'; nearest names: smooth"),
        (lambda: picture(torch.ones(1, 3), over=True), "no option 'over'; there are: names, count, colours"),
        (lambda: picture(torch.ones(1, 3, 4), body=[1]), "no option 'body'"),
        (lambda: picture(torch.ones(1, 3, 2, 2), photo=[1]), "no option 'photo'"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_nothing_is_drawn_where_it_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not .bmp"):
        picture(torch.full((1, 3, 2, 2), float("nan")), tmp_path / "a.bmp")  # the path is checked first


def test_images_that_are_not_the_batchs() -> None:
    explained = Explained(torch.randn(2, 3, 8, 8))
    start = r"2 samples of shape \(3, 8, 8\) were explained, but "
    with pytest.raises(InputError, match=start + r"image of shape \(7, 7\) given: give one for each"):
        picture(explained, image=torch.randn(7, 7))
    with pytest.raises(InputError, match=start + "3 images given"):
        picture(explained, image=[torch.rand(3, 8, 8)] * 3)


@pytest.mark.parametrize("which", [1, "1", "[1]"], ids=repr)
def test_a_positional_input_is_chosen_by_its_number(which: Any) -> None:
    several = (torch.zeros(1, 3, 4, 4), torch.ones(1, 6))
    name, found = choose_input(several, which)
    assert name == "[1]" and found is several[1]
    assert "[1]" in texts(picture(Explained(several), which=which))
    named = {"0": several[0], "1": several[1], "mask": several[0]}
    assert choose_input(named, which)[1] is several[1]
    for wrong in (2, "2", "[2]"):
        with pytest.raises(InputError, match=r"no explained input '?\[?2\]?'?; there are '\[0\]', '\[1\]'"):
            choose_input(several, wrong)


def test_the_options_of_a_picture_and_a_page_are_documented() -> None:
    """Those of `picture`, of the drawing of images, and of `to_html`."""
    for method, functions, without in (
        (Explanation.save, (picture, grid), {"path", "explanation", "options", "relevances", "titles", "photo"}),
        (Explanation.to_html, (to_html,), {"path", "explanation", "options"}),
    ):
        for name in {n for function in functions for n in inspect.signature(function).parameters} - without:
            assert re.search(rf"\b{name}\b", method.__doc__ or ""), name
    for name in re.findall(r"`relprop\.render\.(\w+)`", f"{Explanation.save.__doc__}{Explanation.to_html.__doc__}"):
        assert callable(getattr(render, name))
