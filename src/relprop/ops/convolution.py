"""Convolutions as linear maps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.numerics import HALF, dot, wide
from relprop.ops.maps import LinearMap, fitting, like

#: As many channels as an entry's colours have.
_FEW = 4
#: So few places that a product for each item of a batch wastes most of the time on its edges.
_PLACES = 64


class Conv(LinearMap):
    """A convolution of 1 to 3 dimensions, transposed or not, with numeric padding."""

    kind = "conv"
    #: Scale of the output channels by a batch norm that is merged: multiplied into the weight where one is asked for.
    factor: Tensor | None = None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        transposed: bool,
        output_padding: list[int],
        groups: int,
    ) -> None:
        self.kernel, self.bias = weight, bias
        self.geometry = (stride, padding, dilation, transposed, output_padding, groups)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        if self.factor is None:
            return self.kernel
        ones = (1,) * self.rank
        if self.transposed:
            w = self.kernel.unflatten(0, (self.groups, -1)) * self.factor.reshape(self.groups, 1, -1, *ones)
            return w.flatten(0, 1)
        return self.kernel * self.factor.reshape(-1, 1, *ones)

    def ran_in(self, dtype: torch.dtype) -> LinearMap:
        whole = self.kernel.dtype == dtype and (self.factor is None or self.factor.dtype == dtype)
        return self if whole else self._cast(dtype)

    def _cast(self, dtype: torch.dtype) -> LinearMap:
        """A batch norm's scale is multiplied into the weight before that is rounded."""
        made = Conv(self.derived(f"in {dtype}", lambda w: w.to(dtype)), None, *self.geometry)
        like(self, made)
        made.bias = None if self.bias is None else self.bias.to(dtype)
        made.rectified, made.memory = self.rectified, self.memory
        made.store = None if self.store is None else self.store.setdefault(f"of {dtype}", {})
        return made

    def pull_back(self, s: Tensor, a: Tensor) -> Tensor:
        if self.factor is None or self.kernel.numel() < s.numel():
            return self.transpose(s, self.weight, a)
        factor = self.shaped_bias(self.factor)
        return self.transpose(s * factor if torch.is_grad_enabled() else s.mul_(factor), self.kernel, a)

    @property
    def groups(self) -> int:
        return self.geometry[5]

    @property
    def transposed(self) -> bool:
        return self.geometry[3]

    @property
    def outputs(self) -> tuple[int, ...]:
        return (self.kernel.shape[1] * self.groups if self.transposed else self.kernel.shape[0],)

    @property
    def rank(self) -> int:
        return self.kernel.ndim - 2

    def _batched(self, a: Tensor) -> Tensor:
        return a if a.ndim == self.kernel.ndim else a.unsqueeze(0)

    def apply(self, a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        run = self._complex if w.is_complex() else torch.convolution
        z = run(self._batched(fitting(a, w)), w, b, *self.geometry)
        return z if a.ndim == self.kernel.ndim else z.squeeze(0)

    def _complex(self, a: Tensor, w: Tensor, b: Tensor | None, *geometry: Any) -> Tensor:
        """`torch.convolution` for complex numbers, which that does not take."""
        stride, padding, dilation, transposed, output_padding, groups = geometry
        if transposed:
            run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.rank - 1]
            return run(a, w, b, stride, padding, output_padding, groups, dilation)
        return (F.conv1d, F.conv2d, F.conv3d)[self.rank - 1](a, w, b, stride, padding, dilation, groups)

    def transpose(self, s: Tensor, w: Tensor, a: Tensor) -> Tensor:
        if w.is_complex():  # which torch takes apart into real convolutions, forward alone
            return super().transpose(s, w, a)
        s, full = self._batched(s), self._batched(a)
        if self._by_product(s):
            r = self._placed(s, w, full)
        else:
            if full.is_meta or full.dtype != w.dtype:  # its values do not matter
                full = _in_memory_of(s, full)
            r = torch.ops.aten.convolution_backward(s, full, w, None, *self.geometry, [True, False, False])[0]
        return r if a.ndim == self.kernel.ndim else r.squeeze(0)

    @property
    def _pointwise(self) -> bool:
        return max(self.kernel.shape[2:]) == 1 and not any(self.geometry[1])

    def _by_product(self, s: Tensor) -> bool:
        """Whether a matrix product whose rows are put where the kernel had read is quicker than torch's backward.

        So it is on CPUs where no two places overlap (1x1 kernels, patches) and for inputs of few channels (colours);
        in channels-last memory it would change the order.
        """
        stride, _, _, transposed, _, groups = self.geometry
        if transposed or groups != 1 or not (s.is_cpu and s.is_contiguous() and (self.rank == 2 or self._pointwise)):
            return False
        apart = all(k <= n for k, n in zip(self.kernel.shape[2:], stride, strict=True))
        return apart and max(stride) > 1 if s.dtype in HALF else apart or self.kernel.shape[1] <= _FEW

    def _placed(self, s: Tensor, w: Tensor, a: Tensor) -> Tensor:
        stride, padding, dilation, *_ = self.geometry
        if s.dtype in HALF:  # in which products of strided memory are slow
            one, none = [1] * self.rank, [0] * self.rank
            w = w.reshape(w.shape[0], -1, *one)
            spots = torch.convolution(s, w, None, one, none, one, True, none, 1).flatten(2)
        else:
            spots = _product(s.flatten(2), w.flatten(1))
        if not self._pointwise:
            return F.fold(spots, a.shape[2:], self.kernel.shape[2:], tuple(dilation), tuple(padding), tuple(stride))
        spots = spots.unflatten(2, s.shape[2:])
        if max(stride) == 1:
            return spots
        r = s.new_zeros(a.shape)
        every: tuple[slice, ...] = tuple(slice(None, None, k) for k in (1, 1, *stride))
        r[every] = spots
        return r

    def shaped_bias(self, b: Tensor) -> Tensor:
        return b.reshape(-1, *(1,) * self.rank)

    def bias_share(self, s: Tensor, b: Tensor) -> Tensor:
        return dot(self._by_channel(s), b)

    def shared(self, s: Tensor, b: Tensor | None) -> tuple[Tensor | None, Tensor]:
        c = self._by_channel(s)
        return None if b is None else dot(c, b), c.sum()

    def _by_channel(self, s: Tensor) -> Tensor:
        """`s` summed over all but its channels."""
        s = self._batched(s)
        if s.dtype in HALF:  # torch is quick over the last dimension alone
            return s.flatten(2).sum(2, dtype=wide(s.dtype)).sum(0, dtype=torch.float32)
        return s.sum([0, *range(2, s.ndim)])

    def per_input(self, value: Tensor, a: Tensor) -> Tensor | None:
        if value.numel() == 1:
            return value.reshape(())
        channels = self.kernel.shape[0 if self.transposed else 1]
        plain = self.groups == 1 and value.numel() == channels
        if not plain or tuple(value.shape[-1 - self.rank :]) != (channels, *(1,) * self.rank):
            return None
        return value.reshape(-1, 1, *(1,) * self.rank) if self.transposed else value.reshape(1, -1, *(1,) * self.rank)

    def spread(self, s: Tensor, a: Tensor) -> Tensor:
        """All channels of a group are alike, so one stands for them."""
        if self.transposed or self.groups != 1:
            return super().spread(s, a)
        single = a.ndim != self.kernel.ndim
        s, full = self._batched(s).sum(1, keepdim=True), self._batched(a)
        one = torch.ones_like(self.kernel[:1, :1])
        r = self.transpose(s.to(one.dtype), one, full[:, :1]).expand_as(full)
        return r.squeeze(0) if single else r

    def sample(self, a: Tensor) -> Tensor:
        return a[:1] if a.ndim == self.kernel.ndim else a

    def scaled(self, scale: Tensor, shift: Tensor) -> LinearMap | None:
        bias = shift if self.bias is None else self.bias * scale + shift
        made = Conv(self.kernel, bias, *self.geometry)
        made.factor = scale if self.factor is None else self.factor * scale
        return like(self, made)

    def channels(self, z: Tensor) -> int | None:
        return z.ndim - 1 - self.rank

    def both(self, s: Tensor, w: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """`A(w)^T s` and `A(v)^T s` at once, where the inputs are few (an entry's colours)."""
        if self.transposed or self.groups != 1 or a.ndim != self.kernel.ndim:
            return super().both(s, w, v, a)
        n = w.shape[1]
        r = self.transpose(s, torch.cat([w, v], 1), a.new_empty(a.shape[0], 2 * n, *a.shape[2:]))
        return r[:, :n], r[:, n:]

    def fan_in(self, a: Tensor) -> Tensor:
        """All channels are alike: count the taps of one and multiply."""
        one = self._batched(self.support(torch.ones_like(self.sample(a))))[:, :1]
        kernel = torch.ones_like(self.kernel[:1, :1])
        geometry = (*self.geometry[:5], 1)
        taps = torch.convolution(fitting(one, kernel), kernel, None, *geometry)
        inputs = self.kernel.shape[0] // self.groups if self.transposed else self.kernel.shape[1]
        count = taps * inputs
        return count if a.ndim == self.kernel.ndim else count.squeeze(0)


def _in_memory_of(s: Tensor, like: Tensor) -> Tensor:
    """A tensor of that layout whose values do not matter: where `s` is as large, no further memory is asked for."""
    if like.numel() <= s.numel() and like.is_contiguous() and s.is_contiguous():
        return s.view(-1)[: like.numel()].view(like.shape)
    return s.new_empty_strided(like.shape, like.stride())


def _product(s: Tensor, w: Tensor) -> Tensor:
    """`w^T s` for every item of the batch: `s` [N, C, places], `w` [C, D]."""
    if len(s) > 1 and s.shape[2] <= _PLACES:
        return s.mT.reshape(-1, s.shape[1]).mm(w).view(len(s), s.shape[2], -1).mT.contiguous()
    return torch.matmul(w.t(), s)
