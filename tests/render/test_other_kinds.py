"""Signals, rows of features, volumes and films."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from relprop.errors import InputError
from relprop.render import (
    bars,
    frames,
    heatmap,
    montage,
    overlay,
    palette,
    pixels,
    signal,
    slices,
    strip,
    tile,
)
from tests.render.test_figure import pictures, texts


def test_a_strip_shows_each_channel_at_its_height() -> None:
    relevance = torch.tensor([[1.0, 0.0, -2.0], [0.0, 2.0, 0.0]])
    picture = strip(relevance, height=4)
    assert picture.shape == (8, 3, 3)
    np.testing.assert_array_equal(picture[[0, 4]], palette()(relevance.double().numpy() / 2))


def test_all_channels_of_a_signal_share_a_scale() -> None:
    figure = signal([[1.0, -4.0, 0.0], [0.5, 0.0, 2.0]], [[0, 1, 2], [3, 4, 5]], names=["a", "b"], time_label="s")
    written = texts(figure)
    for expected in ("a", "b", "s   sum -0.5", "+4", "-4"):
        assert expected in written
    assert len(figure.axes) == 3  # two channels and one scale


def test_of_many_channels_the_strongest_are_shown_and_it_is_said() -> None:
    relevance = torch.zeros(30, 5)
    relevance[17] = 9
    relevance[:12] = 1
    figure = signal(relevance, title="ecg")
    assert "ecg (the strongest 12 of 30 channels)" in texts(figure)
    assert "channel 17" in texts(figure) and "channel 11" not in texts(figure)


@pytest.mark.parametrize("relevance", [np.zeros(10), np.ones(1), np.ones((1, 3, 20)), np.arange(4.0) * 1e-30])
def test_odd_signals_are_drawn(relevance: np.ndarray) -> None:
    figure = signal(relevance, smooth=2)
    assert len(np.unique(pixels(figure))) > 3
    assert ("every value is zero" in texts(figure)) == (not relevance.any())


def test_times_of_a_signal_need_not_be_even() -> None:
    figure = signal([1.0, 2.0, -1.0], times=[0.0, 1.0, 10.0])
    assert figure.axes[0].get_xlim() == (-0.5, 14.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: signal(np.ones((2, 3, 4))), r"got shape \(2, 3, 4\)"),
        (lambda: signal(np.ones(4), np.ones(5)), "must be the same"),
        (lambda: signal(np.ones(4), names=["a", "b"]), "1 channels, but 2 names"),
        (lambda: signal(np.ones(3), times=[0, 2, 1]), "ascending"),
        (lambda: signal(np.array([np.inf])), "not finite"),
        (lambda: strip(np.zeros((0,))), "empty"),
    ],
)
def test_bad_signals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_bars_are_sorted_and_the_rest_is_summed() -> None:
    figure = bars([1.0, -3.0, 0.5, 2.0], ["age", "$pay", "x", "y"], [10, 20, 30, 40], count=2, title="row")
    axis = figure.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [-3.0, 2.0, 1.5]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["$pay = 20", "y = 40", "2 others together"]
    assert "sum 0.5" in texts(figure)
    pixels(figure)


def test_bars_of_nothing_say_so() -> None:
    figure = bars(torch.zeros(1, 3))
    assert "every value is zero" in texts(figure)
    pixels(figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bars(np.ones((2, 3))), "one row of features"),
        (lambda: bars(np.ones(3), ["a"]), "3 features, but 1 names"),
        (lambda: bars(np.ones(3), values=[1]), "3 relevances, but 1 values"),
        (lambda: bars(np.ones(3), count=0), "count must be"),
    ],
)
def test_bad_bars(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_montage_has_every_slice_in_reading_order() -> None:
    relevance = np.arange(24.0).reshape(6, 2, 2)
    sheet = montage(relevance, columns=3, gap=1)
    assert sheet.shape == (5, 8, 3)
    for k in range(6):
        top, left = 3 * (k // 3), 3 * (k % 3)
        np.testing.assert_array_equal(sheet[top : top + 2, left : left + 2], heatmap(relevance[k], limit=23.0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_montage_cuts_across_any_axis_and_picks_evenly(axis: int) -> None:
    relevance = np.zeros((9, 9, 9))
    np.moveaxis(relevance, axis, 0)[4] = 1
    sheet = montage(relevance, axis=axis, count=3, columns=3, gap=0)
    np.testing.assert_array_equal(sheet[0, ::9], palette()(np.array([0.0, 1.0, 0.0])))


def test_the_three_planes_go_through_the_strongest_place() -> None:
    relevance = torch.zeros(1, 2, 5, 6, 7)
    relevance[0, 1, 3, 2, 6] = -4
    figure = slices(relevance, title="scan")
    assert all(text in texts(figure) for text in ("depth 3", "height 2", "width 6", "scan", "sum -4"))
    shapes = [picture.shape[:2] for picture in pictures(figure)]
    assert shapes == [(6, 7), (5, 7), (5, 6)]
    assert "depth 0" in texts(slices(relevance, torch.rand(5, 6, 7), at=(0, 0, 0)))
    assert "every value is zero" in texts(slices(torch.zeros(2, 3, 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: montage(np.ones((4, 4))), r"got shape \(4, 4\)"),
        (lambda: montage(np.ones((2, 2, 2)), axis=3), "axis must be 0"),
        (lambda: montage(np.ones((2, 2, 2)), count=0), "must be at least 1"),
        (lambda: montage(np.ones((2, 2, 2)), np.ones((2, 2, 3))), "must be the same"),
        (lambda: slices(np.ones((2, 2, 2)), at=(0, 0, 2)), "outside the volume"),
        (lambda: slices(np.ones((2, 2, 2)), at=(0, 0)), "outside the volume"),
    ],
)
def test_bad_volumes(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_frames_share_a_scale_and_lie_over_the_film() -> None:
    relevance = torch.stack([torch.eye(4), 2 * torch.eye(4)])
    plain = frames(relevance)
    np.testing.assert_array_equal(plain[0], heatmap(relevance[0], limit=2.0))
    film = np.full((2, 4, 4, 3), 90, np.uint8)
    over = frames(relevance[:, None], film)
    np.testing.assert_array_equal(over[1], overlay(relevance[1], film[1]))
    with pytest.raises(InputError, match="2 frames of relevance, but 1"):
        frames(relevance, film[:1])
    with pytest.raises(InputError, match=r"got shape \(4, 4\)"):
        frames(relevance[0])


def test_pictures_on_a_sheet() -> None:
    ones = [np.full((2, 3, 3), i, np.uint8) for i in range(3)]
    sheet = tile(ones, columns=2, gap=0)
    assert sheet.shape == (4, 6, 3)
    assert sheet[3, 5].tolist() == [255, 255, 255] and sheet[2, 0].tolist() == [2, 2, 2]
