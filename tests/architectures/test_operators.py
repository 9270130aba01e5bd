"""Operators that libraries add to torch: a user's own, and torchvision's pooling of regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from relprop.ops import TABLE, Native
from tests.support.compare import assert_close

REGIONS = torch.tensor([[0.0, 1.0, 0.5, 6.5, 5.0], [1.0, 0.0, 0.0, 4.0, 7.0], [0.0, 2.0, 2.0, 3.5, 7.5]])


def aligned(x: Tensor, rois: Tensor, scale: float, high: int, wide: int, sampling_ratio: int, shift: bool) -> Tensor:
    """`roi_align` at one point in the midst of every part, where that lies within the map."""
    assert sampling_ratio == 1 and shift
    found = []
    for roi in rois:
        left, top, right, bottom = (roi[1:] * scale - 0.5).unbind()
        ys = top + (torch.arange(high, dtype=x.dtype) + 0.5) * (bottom - top) / high
        xs = left + (torch.arange(wide, dtype=x.dtype) + 0.5) * (right - left) / wide
        size = torch.tensor([x.shape[-1] - 1.0, x.shape[-2] - 1.0], dtype=x.dtype)
        grid = torch.stack([xs.expand(high, wide), ys[:, None].expand(high, wide)], -1) / size * 2 - 1
        of_one = x[int(roi[0])][None]
        found.append(F.grid_sample(of_one, grid[None], align_corners=True, padding_mode="border"))
    return torch.cat(found)


@pytest.fixture
def libraries() -> Iterator[list[torch.library.Library]]:
    """Libraries that live as long as a test."""
    made: list[torch.library.Library] = []
    yield made
    for library in made:
        library._destroy()


def declare(libraries: list[torch.library.Library], space: str, schema: str, run: Callable[..., Any]) -> None:
    """Add an operator that is made of torch's own, unless the library it is of is here."""
    name = schema.split("(")[0]
    if hasattr(getattr(torch.ops, space), name):
        return
    library = torch.library.Library(space, "FRAGMENT")
    library.define(schema)
    library.impl(name, run, "CompositeImplicitAutograd")
    libraries.append(library)


class Head(nn.Module):
    """Features, a call on them, and what is read off."""

    def __init__(self, call: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.features, self.call = nn.Conv2d(3, 4, 3, padding=1), call
        self.read = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.call(self.features(x).relu()).flatten(1))  # type: ignore[no-any-return]


def head(call: Callable[[Tensor], Tensor], features: int) -> Head:
    torch.manual_seed(0)
    return Head(call, features).double().eval()


def pictures() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.double)


@pytest.mark.parametrize(
    "composite", [rp.Zero(), rp.EpsilonPlus(), rp.EpsilonPlusFlat()], ids=lambda c: type(c).__name__
)
def test_regions(composite: Any, libraries: list[torch.library.Library]) -> None:
    schema = "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    declare(libraries, "torchvision", schema + "int sampling_ratio, bool aligned) -> Tensor", aligned)
    rois = REGIONS.double()
    found = head(lambda h: torch.ops.torchvision.roi_align(h, rois, 1.0, 2, 3, 1, True), 24)
    spelled = head(lambda h: aligned(h, rois, 1.0, 2, 3, 1, True), 24)
    target = torch.tensor([0, 1, 1])
    e = rp.LRP(found, composite).explain(pictures(), target=target)
    expected = rp.LRP(spelled, composite).explain(pictures(), target=target)
    assert_close(e.output, expected.output)
    assert_close(e.relevance, expected.relevance)
    assert e.audit.cuts == () and e.audit.unexplained_share < 1e-10


def test_regions_that_depend_on_the_input_are_constants(libraries: list[torch.library.Library]) -> None:
    schema = "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    declare(libraries, "torchvision", schema + "int sampling_ratio, bool aligned) -> Tensor", aligned)

    def call(h: Tensor, given: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
        rois = given(REGIONS.double() + 0.01 * h.mean() * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]).double())
        return torch.ops.torchvision.roi_align(h, rois, 1.0, 2, 3, 1, True)  # type: ignore[no-any-return]

    target = torch.tensor([0, 1, 1])
    e = rp.LRP(head(call, 24), rp.Zero()).explain(pictures(), target=target)
    fixed = rp.LRP(head(lambda h: call(h, Tensor.detach), 24), rp.Zero()).explain(pictures(), target=target)
    assert e.audit.cuts == (("", "roi_align"),) and fixed.audit.cuts == (("", "detach"),)
    assert_close(e.relevance, fixed.relevance)
    assert e.audit.unexplained_share < 1e-10


def test_an_operator_of_ones_own(libraries: list[torch.library.Library]) -> None:
    declare(libraries, "relprop_tests", "flipped(Tensor x) -> Tensor", lambda x: x.flip(-1) * 2)
    operator = torch.ops.relprop_tests.flipped

    def doubled(call: Any) -> Native:
        return Native(form="scale")

    for call in (operator, operator.default):
        model = head(lambda h, call=call: call(h), 256)  # type: ignore[misc]
        with pytest.raises(rp.UnknownOperationError, match=r"relprop\.op\('relprop_tests::flipped'\)"):
            rp.LRP(Unseen(model), rp.Zero()).explain(pictures(), target=1)
    rp.op("relprop_tests::flipped")(doubled)
    try:
        with pytest.raises(rp.RegistryError, match="relprop_tests::flipped is registered already"):
            rp.op(operator)(lambda call: Native())
        expected = rp.LRP(head(lambda h: h.flip(-1) * 2, 256), rp.Zero()).explain(pictures(), target=1)
        for call in (operator, operator.default):
            e = rp.LRP(head(lambda h, call=call: call(h), 256), rp.Zero()).explain(pictures(), target=1)  # type: ignore[misc]
            assert_close(e.relevance, expected.relevance)
            assert e.audit.unexplained_share < 1e-10
    finally:
        del TABLE._operators["relprop_tests::flipped"]


class Unseen(nn.Module):
    """A model as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)
