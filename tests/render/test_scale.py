"""From relevance to numbers with a scale: reductions, limits, clipping that is said, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relprop.errors import InputError
from relprop.render.scale import as_array, check_options, find_scale, make_map, reduce_channels, spatial

CHANNELS = np.array([[[1.0, -2.0]], [[2.0, -1.0]], [[-4.0, 5.0]]])  # [3, 1, 2]; sums -1 and 2


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("sum", [-1, 2]),
        ("positive", [0, 2]),
        ("negative", [-1, 0]),
        ("abs", [1, 2]),
        ("norm", [21**0.5, 30**0.5]),
    ],
)
def test_reductions_by_hand(how: str, wanted: list[float]) -> None:
    np.testing.assert_allclose(reduce_channels(CHANNELS, how)[0], wanted)  # type: ignore[arg-type]


def test_no_reduction_needs_one_channel() -> None:
    np.testing.assert_array_equal(reduce_channels(CHANNELS[:1], "none"), CHANNELS[0])
    with pytest.raises(InputError, match="needs one channel, there are 3"):
        reduce_channels(CHANNELS, "none")
    with pytest.raises(InputError, match="unknown reduction 'mean'; there are sum, positive"):
        reduce_channels(CHANNELS, "mean")  # type: ignore[arg-type]


def test_the_scale_is_symmetric_and_ends_at_the_strongest() -> None:
    scale = find_scale(np.array([-3.0, 0.5, 1.0]))
    assert (scale.limit, scale.signed, scale.clipped, scale.largest) == (3.0, True, 0, 3.0)
    assert str(scale) == "±3"


def test_clipping_is_counted_and_said() -> None:
    values = np.arange(-500.0, 501.0)
    scale = find_scale(values, percentile=90)
    assert scale.clipped == int((np.abs(values) > scale.limit).sum()) > 0
    assert scale.limit == np.percentile(np.abs(values), 90)
    assert str(scale) == "±450; 100 of 1001 values (10 %) clipped, strongest 500"


def test_a_given_limit_clips_too() -> None:
    scale = find_scale(np.array([0.0, 4.0]), limit=2, signed=False)
    assert (scale.limit, scale.clipped) == (2.0, 1)
    assert str(scale).startswith("0 to 2; 1 of 2 values")


def test_a_percentile_among_zeros_clips_at_the_strongest() -> None:
    values = np.zeros(1000)
    values[3] = 7
    scale = find_scale(values, percentile=99)
    assert (scale.limit, scale.clipped) == (7.0, 0)


def test_all_zero_is_said() -> None:
    drawn = make_map(torch.zeros(3, 4, 4))
    assert drawn.scale.empty and str(drawn.scale) == "zero everywhere"
    assert (drawn.normalised == 0).all()


def test_a_shared_scale_spans_all() -> None:
    scale = find_scale([np.array([1.0, -2.0]), np.array([[5.0]])])
    assert scale.limit == 5 and scale.count == 3


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (3, 4, 5), (1, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_shapes_and_types_of_a_picture(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    relevance = torch.randn(shape).to(dtype)
    wanted = relevance.double().reshape(-1, 4, 5).sum(0)
    np.testing.assert_allclose(spatial(relevance), wanted.numpy())


def test_relevance_that_needs_a_gradient_is_drawn() -> None:
    relevance = torch.ones(2, 2, requires_grad=True)
    assert make_map(relevance * 2).scale.limit == 2
    assert relevance.grad is None


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (
            torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]]),
            r"1 NaN and 1 infinite of 4 values, the first at \(0, 1\)",
        ),
        (torch.zeros(0, 3), "empty"),
        (torch.zeros(2, 3, 4, 4), "batch of 2"),
        (torch.zeros(5), r"got shape \(5,\)"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex"),
        ("chelsea", "must be a tensor or an array of numbers, got str"),
        ({"a": 1}, "got dict"),
    ],
)
def test_what_cannot_be_drawn(relevance: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_map(relevance)


@pytest.mark.parametrize(
    "options",
    [{"percentile": 0}, {"percentile": 101}, {"percentile": float("nan")}, {"limit": 0}, {"limit": -1}],
)
def test_scales_that_are_none(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="percentile must|limit of a scale"):
        find_scale(np.ones(3), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"reduce": "x"}, {"percentile": -1}, {"smooth": float("inf")}, {"smooth": -1}])
def test_options_are_checked_before_the_work(options: dict[str, object]) -> None:
    check_options()
    with pytest.raises(InputError):
        check_options(**options)  # type: ignore[arg-type]


def test_arrays_are_taken_as_they_are() -> None:
    np.testing.assert_array_equal(as_array([[1, 2]]), [[1.0, 2.0]])
