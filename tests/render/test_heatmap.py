"""Arrays of colours: heatmap, overlay, smoothed view, contours; nothing here needs matplotlib."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from relprop.errors import InputError
from relprop.render import heatmap, overlay, palette
from relprop.render.heatmap import as_photo, contour_mask, enlarge, hatched, smooth_values


def test_colours_follow_the_scale() -> None:
    picture = heatmap(np.array([[-2.0, 0.0, 1.0, 2.0]]))
    np.testing.assert_array_equal(picture[0], palette()(np.array([-1, 0, 0.5, 1])))


def test_scaling_relevance_changes_nothing_and_its_sign_mirrors() -> None:
    relevance = torch.randn(3, 8, 9)
    np.testing.assert_array_equal(heatmap(relevance), heatmap(relevance * 1000))
    np.testing.assert_array_equal(heatmap(-relevance, colours="bwr"), heatmap(relevance, colours="bwr")[..., ::-1])


def test_clipping_at_a_percentile() -> None:
    relevance = np.concatenate([np.linspace(-1, 1, 999), [50.0]]).reshape(20, 50)
    dull, clear = heatmap(relevance).astype(int), heatmap(relevance, percentile=99).astype(int)
    assert np.abs(dull - dull[10, 0]).reshape(-1, 3)[:-1].max() < 15  # one value takes the whole scale
    assert np.abs(clear - clear[10, 0]).reshape(-1, 3)[:-1].max() > 100


def test_each_value_becomes_a_block() -> None:
    relevance = np.array([[1.0, -1.0], [0.5, 0.0]])
    picture = heatmap(relevance, size=(6, 4))
    np.testing.assert_array_equal(picture, heatmap(relevance).repeat(3, 0).repeat(2, 1))


@pytest.mark.parametrize("reduce", ["positive", "norm", "abs"])
def test_values_without_sign_start_at_the_colour_of_zero(reduce: str) -> None:
    relevance = torch.tensor([[[0.0, 3.0]], [[0.0, 4.0]]])
    picture = heatmap(relevance, reduce=reduce)  # type: ignore[arg-type]
    np.testing.assert_array_equal(picture[0], palette()(np.array([0.0, 1.0])))


def test_all_zero_is_hatched_and_not_blank() -> None:
    for picture in (
        heatmap(torch.zeros(3, 16, 16)),
        overlay(torch.zeros(16, 16), np.zeros((16, 16), np.uint8)),
    ):
        assert len(np.unique(picture)) > 1
    np.testing.assert_array_equal(heatmap(np.zeros((8, 8))), hatched((8, 8)))


def test_one_pixel() -> None:
    np.testing.assert_array_equal(heatmap(np.array([[-4.0]])), palette()(np.array([[-1.0]])))
    assert overlay(np.ones((1, 1)), np.zeros((1, 1, 3), np.uint8), smooth=2).shape == (1, 1, 3)


@pytest.mark.parametrize("sigma", [0.4, 1.5, 20.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 5), (2, 6, 8)])
def test_smoothing_keeps_the_sum_and_shrinks(sigma: float, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(size=shape)
    smooth = smooth_values(values, sigma)
    np.testing.assert_allclose(smooth.sum((-2, -1)), values.sum((-2, -1)), rtol=1e-9, atol=1e-9)
    assert np.abs(smooth).max() <= np.abs(values).max() + 1e-12


def test_smoothing_is_the_gaussian_it_says() -> None:
    point = np.zeros((41, 41))
    point[20, 20] = 1
    spread = smooth_values(point, 3.0)
    rows = np.indices(point.shape)[0] - 20
    assert np.sqrt((spread * rows**2).sum()) == pytest.approx(3.0, rel=0.03)
    np.testing.assert_allclose(spread, spread.T, atol=1e-15)
    assert spread[20, 23] / spread[20, 20] == pytest.approx(np.exp(-0.5), rel=1e-6)


def test_lines_between_values_are_straight() -> None:
    ramp = np.array([[0.0, 1.0]])
    np.testing.assert_allclose(enlarge(ramp, (1, 4), "bilinear"), [[0, 0.25, 0.75, 1]])
    np.testing.assert_allclose(enlarge(np.full((3, 3), 2.0), (7, 5), "bilinear"), 2.0)
    np.testing.assert_allclose(enlarge(np.arange(12.0).reshape(3, 4), (3, 4)), np.arange(12.0).reshape(3, 4))


def test_a_contour_is_one_pixel_wide_and_closed() -> None:
    rows, columns = np.indices((21, 21)) - 10
    hill = np.exp(-(rows**2 + columns**2) / 40)
    mask = contour_mask(hill, 0.5)
    assert (hill[mask] >= 0.5).all() and mask.sum() > 10
    inside = hill >= 0.5
    # Without the line nothing of the inside touches the outside.
    core = inside & ~mask
    outside = np.pad(~inside, 1, mode="edge")
    touches = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    assert not (core & touches).any()
    np.testing.assert_array_equal(contour_mask(-hill, -0.5), mask)


def test_contours_have_the_colour_of_their_sign() -> None:
    relevance = np.zeros((12, 12))
    relevance[2:5, 2:5], relevance[7:10, 7:10] = 1, -1
    photo = np.full((12, 12, 3), 128, np.uint8)
    picture = overlay(relevance, photo, contours=(-0.5, 0.5))
    against, speaks = palette()(np.array([-1.0, 1.0]))
    np.testing.assert_array_equal(picture[2, 2], speaks)
    np.testing.assert_array_equal(picture[7, 7], against)
    assert not np.array_equal(picture[3, 3], speaks)  # inside the line the colour is only laid over


def test_overlay_fades_where_nothing_was_found() -> None:
    relevance = np.array([[0.0, 1.0]])
    photo = np.array([[[100, 150, 200], [100, 150, 200]]], np.uint8)
    coloured = overlay(relevance, photo, grey=False, opacity=1.0)
    np.testing.assert_array_equal(coloured[0, 0], photo[0, 0])
    np.testing.assert_array_equal(coloured[0, 1], palette()(np.array(1.0)))
    plain = overlay(relevance, photo, grey=False, opacity=0.5, fade=False)
    np.testing.assert_allclose(plain[0, 0], (photo[0, 0] + palette()(np.array(0.0)).astype(float)) / 2, atol=1)


def test_overlay_takes_a_coarser_map() -> None:
    photo = np.zeros((224, 224, 3), np.uint8)
    assert overlay(torch.randn(1, 7, 7), photo).shape == photo.shape


@pytest.mark.parametrize(
    "photo",
    [
        np.full((4, 6), 51, np.uint8),
        np.full((4, 6, 1), 51, np.uint8),
        np.full((4, 6, 3), 51, np.uint8),
        np.concatenate([np.full((4, 6, 3), 51), np.full((4, 6, 1), 255)], -1).astype(np.uint8),
        np.full((4, 6, 3), 0.2),
        torch.full((3, 4, 6), 0.2),
        torch.full((1, 3, 4, 6), 51),
    ],
    ids=["grey", "one", "rgb", "rgba", "float", "chw", "batch"],
)
def test_photographs_in_every_usual_form(photo: object) -> None:
    np.testing.assert_array_equal(as_photo(photo), np.full((4, 6, 3), 51))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: overlay(np.ones((4, 4)), np.zeros((4, 8), np.uint8)),
            "map is 4 x 4 and the photograph 4 x 8",
        ),
        (lambda: overlay(np.ones((4, 4)), torch.randn(3, 4, 4)), "before it was normalised"),
        (lambda: overlay(np.ones((4, 4)), np.zeros((4, 4, 5), np.uint8)), r"got shape \(4, 4, 5\)"),
        (lambda: overlay(np.ones((4, 4)), np.full((4, 4), np.nan)), "the photograph is not finite"),
        (lambda: overlay(np.ones((4, 4)), np.zeros((4, 4)), opacity=2), "opacity must lie between 0 and 1"),
        (lambda: overlay(np.ones((4, 4)), np.zeros((4, 4)), contours=(0,)), "a contour is a share"),
        (lambda: heatmap(np.ones((4, 4)), smooth=-1), "standard deviation >= 0"),
        (lambda: heatmap(np.ones((4, 4)), size=(0, 3)), "at least one pixel"),
        (lambda: heatmap(np.ones((4, 4)), colours="rainbowish"), "unknown colour map"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]


def test_colours_need_numpy_alone() -> None:
    code = (
        "import sys; from relprop.render import heatmap, overlay, frames, montage, strip; import numpy as "
        "np\n"
        "heatmap(np.eye(4)); overlay(np.eye(4), np.eye(4)); strip(np.ones(3)); montage(np.ones((2, 3, 3)))\n"
        "assert not {'matplotlib', 'PIL'} & set(sys.modules), 'imported too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_large_picture_is_quick_enough_to_draw() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (2048, 2048, 3), np.uint8)
    assert overlay(rng.normal(size=(2048, 2048)), photo, smooth=3, contours=(0.5,)).shape == photo.shape
