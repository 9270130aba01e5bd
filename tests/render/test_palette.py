"""Colour maps: what makes the default sound, and that the names from elsewhere mean what they mean there."""

from __future__ import annotations

import numpy as np
import pytest

from relprop.errors import InputError
from relprop.render.palette import (
    NAMES,
    Palette,
    linear_from_srgb,
    oklab_from_srgb,
    palette,
    srgb_from_linear,
    srgb_from_oklab,
)

# What a person without one kind of cone sees, on linear sRGB, at full severity. [Machado et al. 2009, table
# 1]
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
OURS = ("relevance", "relevance-dark")


def seen_with(rgb: np.ndarray, blindness: str) -> np.ndarray:
    linear = linear_from_srgb(rgb) @ np.array(BLINDNESS[blindness]).T
    return srgb_from_linear(np.clip(linear, 0, 1))


def test_oklab_of_known_colours() -> None:
    # White has lightness 1 and no colour; red's values are those of the publication's reference code.
    np.testing.assert_allclose(oklab_from_srgb(np.array([1.0, 1.0, 1.0])), [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(oklab_from_srgb(np.array([1.0, 0, 0])), [0.6279, 0.2249, 0.1258], atol=1e-3)
    rgb = np.random.default_rng(0).uniform(size=(50, 3))
    np.testing.assert_allclose(srgb_from_oklab(oklab_from_srgb(rgb)), rgb, atol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_lightness_says_strength_and_is_the_same_for_both_signs(name: str) -> None:
    lightness = oklab_from_srgb(palette(name).table)[:, 0]
    half = lightness[255:]
    np.testing.assert_allclose(lightness[::-1], lightness, atol=2e-3)
    steps = np.diff(half)
    assert (np.sign(steps) == np.sign(steps[0])).all()
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)


@pytest.mark.parametrize("name", OURS)
def test_equal_steps_look_equal(name: str) -> None:
    distances = np.linalg.norm(np.diff(oklab_from_srgb(palette(name).table), axis=0), axis=1)
    assert distances.max() < 1.2 * distances.min()


@pytest.mark.parametrize("name", OURS)
def test_zero_is_neutral(name: str) -> None:
    colour = palette(name)(np.array(0.0)).astype(int)
    assert np.ptp(colour) <= 1


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("name", OURS)
def test_signs_stay_apart_for_the_colour_blind(name: str, blindness: str) -> None:
    lab = oklab_from_srgb(seen_with(palette(name).table, blindness))
    for strength in (0.5, 0.75, 1.0):
        at = round(255 * strength)
        apart = np.linalg.norm(lab[255 + at] - lab[255 - at])
        # 0.02 is about what one can just tell apart; red against green of equal lightness falls to it.
        assert apart > 0.1 * strength, (strength, apart)


def test_the_check_for_colour_blindness_can_fail() -> None:
    red_green = Palette("rg", np.linspace([0, 0.5, 0], [0.67, 0, 0], 511), True)
    lab = oklab_from_srgb(seen_with(red_green.table, "deuteranopia"))
    assert np.linalg.norm(lab[510] - lab[0]) < 0.1


def test_red_is_for_and_blue_is_against() -> None:
    negative, positive = palette()(np.array([-1.0, 1.0])).astype(int)
    assert positive[0] > positive[2] + 80
    assert negative[2] > negative[0] + 80


@pytest.mark.parametrize("name", NAMES)
def test_every_name_gives_a_full_table(name: str) -> None:
    table = palette(name).table
    assert table.shape == (511, 3)
    assert table.min() >= 0 and table.max() <= 1
    colours = palette(name)(np.linspace(-1, 1, 7))
    assert colours.dtype == np.uint8 and colours.shape == (7, 3)
    assert len({tuple(c) for c in colours.tolist()}) == 7  # no two places look the same


def test_values_without_sign_use_the_upper_half_or_the_whole_table() -> None:
    values = np.array([0.0, 1.0])
    np.testing.assert_array_equal(palette("relevance")(values, signed=False), palette("relevance")(values))
    np.testing.assert_array_equal(palette("gray")(values, signed=False), [[0, 0, 0], [255, 255, 255]])
    np.testing.assert_array_equal(palette("gray")(np.array([-1.0, 1.0])), [[0, 0, 0], [255, 255, 255]])


def test_beyond_the_ends_is_the_end() -> None:
    np.testing.assert_array_equal(palette()(np.array([-5.0, 5.0])), palette()(np.array([-1.0, 1.0])))


def test_colours_may_be_written_out() -> None:
    own = palette("00f, fff, #ff0000")
    np.testing.assert_array_equal(own(np.array([-1.0, 0, 1])), [[0, 0, 255], [255, 255, 255], [255, 0, 0]])
    assert own.diverging and not palette("000,fff").diverging
    assert palette(own) is own


def test_maps_of_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the colour maps of matplotlib need it")
    ends = palette("RdBu_r")(np.array([-1.0, 1.0]))
    wanted = np.round(np.array([matplotlib.colormaps["RdBu_r"](v)[:3] for v in (0.0, 1.0)]) * 255)
    np.testing.assert_array_equal(ends, wanted)
    assert palette("RdBu_r").diverging and not palette("viridis").diverging


@pytest.mark.parametrize("name", ["gray", "wred", "wblue", "hot", "cold", "coldnhot", "bwr", "france", "seismic"])
@pytest.mark.parity
def test_names_mean_what_they_mean_in_zennit(name: str) -> None:
    image = pytest.importorskip("zennit.image", reason="parity with zennit needs it installed")
    theirs = image.palette(name).astype(int)
    ours = palette(name)(np.arange(256) / 255 * 2 - 1).astype(int)
    assert np.abs(ours - theirs).max() <= 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("relevanc", "unknown colour map 'relevanc'; nearest names: relevance"),
        ("bwrr", "nearest names: bwr"),
        ("00f,ggg", "'ggg' is no colour"),
        ("", "unknown colour map ''"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        palette(name)
