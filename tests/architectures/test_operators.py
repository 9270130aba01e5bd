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

TARGET = torch.tensor([0, 1, 1])
REGIONS = torch.tensor([[0.0, 1.0, 0.5, 6.5, 5.0], [1.0, 0.0, 0.0, 4.0, 7.0], [0.0, 2.0, 2.0, 3.5, 6.5]])


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


def cropped(x: Tensor, roi: Tensor, more: int) -> Tensor:
    left, top, right, bottom = (int(c) for c in roi[1:])
    return x[int(roi[0])][None, :, top : bottom + more, left : right + more]


def largest(x: Tensor, rois: Tensor, scale: float, high: int, wide: int) -> tuple[Tensor, Tensor]:
    """`roi_pool` of regions with corners on entries; where each was found is not said."""
    found = torch.cat([F.adaptive_max_pool2d(cropped(x, roi, 1), (high, wide)) for roi in rois])
    return found, torch.zeros(found.shape, dtype=torch.int32)


def by_place(x: Tensor, rois: Tensor, scale: float, high: int, wide: int) -> tuple[Tensor, Tensor]:
    """`ps_roi_pool` of such regions: every part of a region has channels of its own."""
    parts = torch.cat([F.adaptive_avg_pool2d(cropped(x, roi, 0), (high, wide)) for roi in rois])
    found = torch.einsum("nopqpq->nopq", parts.unflatten(1, (-1, high, wide)))
    return found, torch.zeros(found.shape, dtype=torch.int32)


def deformed(
    x: Tensor, w: Tensor, offset: Tensor, mask: Tensor, b: Tensor,
    sh: int, sw: int, ph: int, pw: int, dh: int, dw: int, groups: int, offset_groups: int, use_mask: bool,
) -> Tensor:  # fmt: skip
    """`deform_conv2d` tap by tap."""
    assert (sh, sw, dh, dw, groups, offset_groups) == (1,) * 6
    high, wide = offset.shape[-2:]
    y, base = b[:, None, None], torch.meshgrid(torch.arange(high).double(), torch.arange(wide).double(), indexing="ij")
    size = torch.tensor([x.shape[-1] - 1.0, x.shape[-2] - 1.0], dtype=x.dtype)
    for tap in range(w.shape[2] * w.shape[3]):
        i, j = divmod(tap, w.shape[3])
        at = (base[1] + j - pw + offset[:, 2 * tap + 1], base[0] + i - ph + offset[:, 2 * tap])
        read = F.grid_sample(x, torch.stack(at, -1) / size * 2 - 1, align_corners=True)
        y = y + torch.einsum("oc,nchw->nohw", w[:, :, i, j], read * mask[:, tap, None] if use_mask else read)
    return y


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
    e = rp.LRP(found, composite).explain(pictures(), target=TARGET)
    expected = rp.LRP(spelled, composite).explain(pictures(), target=TARGET)
    assert_close(e.output, expected.output)
    assert_close(e.relevance, expected.relevance)
    assert e.audit.cuts == () and e.audit.unexplained_share < 1e-10


@pytest.mark.parametrize("name, spelled, features", [("roi_pool", largest, 16), ("ps_roi_pool", by_place, 4)])
def test_regions_of_whole_entries(
    name: str, spelled: Callable[..., Any], features: int, libraries: list[torch.library.Library]
) -> None:
    arguments = "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width)"
    declare(libraries, "torchvision", f"{name}{arguments} -> (Tensor, Tensor)", spelled)
    rois = REGIONS.round().double()
    found = head(lambda h: getattr(torch.ops.torchvision, name)(h, rois, 1.0, 2, 2)[0], features)
    expected = rp.LRP(head(lambda h: spelled(h, rois, 1.0, 2, 2)[0], features), rp.EpsilonPlus()).explain(
        pictures(), target=TARGET
    )
    e = rp.LRP(found, rp.EpsilonPlus()).explain(pictures(), target=TARGET)
    assert_close(e.output, expected.output)
    assert_close(e.relevance, expected.relevance)
    assert e.audit.cuts == () and e.audit.unexplained_share < 1e-10


def test_regions_that_depend_on_the_input_are_constants(libraries: list[torch.library.Library]) -> None:
    schema = "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    declare(libraries, "torchvision", schema + "int sampling_ratio, bool aligned) -> Tensor", aligned)

    def call(h: Tensor, given: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
        rois = given(REGIONS.double() + 0.01 * h.mean() * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]).double())
        return torch.ops.torchvision.roi_align(h, rois, 1.0, 2, 3, 1, True)  # type: ignore[no-any-return]

    e = rp.LRP(head(call, 24), rp.Zero()).explain(pictures(), target=TARGET)
    fixed = rp.LRP(head(lambda h: call(h, Tensor.detach), 24), rp.Zero()).explain(pictures(), target=TARGET)
    assert e.audit.cuts == (("", "roi_align"),) and fixed.audit.cuts == (("", "detach"),)
    assert_close(e.relevance, fixed.relevance)
    assert e.audit.unexplained_share < 1e-10


DEFORM = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor"
)


class Deformed(nn.Module):
    """A deformable convolution whose offsets and mask are of the input, or constants."""

    def __init__(self, run: Callable[..., Tensor] | None, moving: bool, still: bool = False) -> None:
        super().__init__()
        self.run, self.moving, self.still = run, moving, still
        self.first, self.where = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 27, 3, padding=1)
        self.conv, self.read = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(320, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        offset, mask = self.where(h if self.moving else h.detach()).split([18, 9], 1)
        offset, mask = (offset * 0, mask * 0 + 1) if self.still else (offset, mask.sigmoid())
        run = self.run or torch.ops.torchvision.deform_conv2d
        w, b = self.conv.weight, self.conv.bias
        y = run(h, w, offset, mask, b, 1, 1, 1, 1, 1, 1, 1, 1, True)
        return self.read(y.relu().flatten(1))  # type: ignore[no-any-return]


def deforming(run: Callable[..., Tensor] | None, moving: bool = False, still: bool = False) -> Deformed:
    torch.manual_seed(0)
    return Deformed(run, moving, still).double().eval()


def test_deformable_convolutions(libraries: list[torch.library.Library]) -> None:
    declare(libraries, "torchvision", DEFORM, deformed)
    spelled = rp.LRP(deforming(deformed), rp.Zero()).explain(pictures(), target=1)
    for moving in (False, True):
        e = rp.LRP(deforming(None, moving), rp.Zero()).explain(pictures(), target=1)
        assert_close(e.output, spelled.output)
        assert_close(e.relevance, spelled.relevance)
        assert e.audit.unexplained_share < 1e-10
        assert e.audit.cuts == ((("", "deform_conv2d"),) if moving else (("", "detach"),))


@pytest.mark.parametrize("rule", [rp.Epsilon(), rp.Gamma(), rp.ZPlus(), rp.AlphaBeta(), rp.Flat()], ids=str)
def test_one_that_is_not_deformed(rule: Any, libraries: list[torch.library.Library]) -> None:
    declare(libraries, "torchvision", DEFORM, deformed)

    def plain(h: Tensor, w: Tensor, offset: Tensor, mask: Tensor, b: Tensor, *rest: Any) -> Tensor:
        return F.conv2d(h, w, b, padding=1)

    rows = [(rp.Kind("conv"), rule), (rp.All(), rp.Epsilon())]
    e = rp.LRP(deforming(None, still=True), rows).explain(pictures(), target=1)
    expected = rp.LRP(deforming(plain, still=True), rows).explain(pictures(), target=1)
    assert_close(e.relevance, expected.relevance)
    assert e.audit.unexplained_share < 1e-10 and rule in [d.rule for d in e.plan.decisions]


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


def test_an_operator_that_changes_its_argument(libraries: list[torch.library.Library]) -> None:
    declare(libraries, "relprop_tests", "doubled_(Tensor(a!) x) -> Tensor(a!)", lambda x: x.mul_(2))

    def call(h: Tensor, double: Callable[[Tensor], Tensor]) -> Tensor:
        kept = h * h.tanh()
        return kept + double(h)

    rp.op("relprop_tests::doubled_")(lambda call: Native(form="scale"))
    try:
        own = head(lambda h: call(h + 0.5, torch.ops.relprop_tests.doubled_), 256)
        found = rp.LRP(own, rp.Epsilon()).explain(pictures(), target=1)
    finally:
        del TABLE._operators["relprop_tests::doubled_"]
    expected = rp.LRP(head(lambda h: call(h + 0.5, lambda t: t * 2), 256), rp.Epsilon()).explain(pictures(), target=1)
    assert_close(found.output, expected.output)
    assert_close(found.relevance, expected.relevance)
    assert found.audit.unexplained_share < 1e-10


class Unseen(nn.Module):
    """A model as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)
