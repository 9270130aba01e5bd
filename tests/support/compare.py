"""Comparisons. They assert; none returns a bool that a caller might drop."""

from __future__ import annotations

import torch


def assert_close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-10, label: str = "") -> None:
    """Equal shape and dtype; every element within `rtol` of itself or of the largest one.

    The second clause is what rounding of a sum allows: an element that cancels to nearly nothing
    is only known to the accuracy of its addends.
    """
    assert isinstance(actual, torch.Tensor), f"{label}: expected a tensor, got {type(actual).__name__}"
    assert actual.shape == expected.shape, f"{label}: {tuple(actual.shape)} is not {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{label}: {actual.dtype} is not {expected.dtype}"
    if expected.numel() == 0:
        return
    assert torch.isfinite(expected).all(), f"{label}: the reference itself is not finite"
    assert torch.isfinite(actual).all(), f"{label}: not finite"
    scale = expected.abs().max().item()
    worst = (actual - expected).abs().max().item()
    if worst <= rtol * scale or torch.allclose(actual, expected, rtol=rtol, atol=0):
        return
    place = (actual - expected).abs().flatten().argmax().item()
    raise AssertionError(
        f"{label}: off by {worst:.3e} at a scale of {scale:.3e} ({worst / max(scale, 1e-300):.1e} of it, not"
        f" {rtol:.0e}): {actual.flatten()[place]:.6e} is not {expected.flatten()[place]:.6e}"
    )


def assert_digits(actual: torch.Tensor, expected: object, digits: int = 4, label: str = "") -> None:
    """Equal to a table's numbers, to the digits the table gives."""
    target = torch.as_tensor(expected, dtype=torch.float64)
    assert actual.shape == target.shape, f"{label}: shape {tuple(actual.shape)}, expected {tuple(target.shape)}"
    worst = (actual.double() - target).abs().max().item()
    assert worst <= 0.5 * 10**-digits * (1 + 1e-9), f"{label}: {actual.tolist()} is not {target.tolist()}"
