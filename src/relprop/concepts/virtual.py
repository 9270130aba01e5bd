r"""Virtual layers: relevance of frequencies, of time and frequency, of any invertible basis.

The input is written as `x = S c` with a constant linear map `S` (the synthesis) and coefficients `c = A x` (the
analysis). `S` is put before the model as a layer that leaves its output as it was, and the coefficients are
explained: with the modified gradient `g` at `x` (the relevance there is `x * g`)

    R_c = Re(conj(c) * S^T g),    sum R_c = sum x * g = sum R_x

so relevance in the basis sums to the same value, and shows what no single sample of the signal carries.
[Vielhaben et al. 2024, "Explainable AI for time series via virtual inspection layers"]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relprop.concepts.within import Within
from relprop.errors import InputError
from relprop.explain import KEYWORDS, LRP, Explanation, check_lrp
from relprop.record.nodes import NODES


@dataclass(frozen=True)
class Basis:
    """An invertible linear basis of an input. Subclasses say how coefficients are found, and the input from them."""

    def analyse(self, x: Tensor) -> Tensor:
        """The coefficients of an input [N, ...]."""
        raise NotImplementedError

    def synthesise(self, c: Tensor, like: Tensor) -> Tensor:
        """The input that has these coefficients, of the shape and dtype of `like`; linear in `c`."""
        raise NotImplementedError


@dataclass(frozen=True)
class DFT(Basis):
    """The discrete Fourier transform along one or several axes.

    dims  the axes: (-1,) of a signal, (-2, -1) of an image

    A real input has coefficients for the frequencies `0 .. T // 2` of the last of them alone: each stands for itself
    and its mirror image `-k`, the complex conjugate, so its relevance is that of cosine and sine together. A complex
    input has all `T`. Unitary scale. Shapes: [..., T] -> [..., T // 2 + 1], complex.
    """

    dims: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        if not isinstance(self.dims, tuple) or not self.dims or not all(type(d) is int for d in self.dims):
            raise InputError(f"dims must be a tuple of axes such as (-1,), got {self.dims!r}")

    def analyse(self, x: Tensor) -> Tensor:
        for d in self.dims:
            if not -x.ndim < d < x.ndim or d == 0:
                raise InputError(f"axis {d} is none of an input of shape {tuple(x.shape)}, or its samples")
        transform = torch.fft.fftn if x.is_complex() else torch.fft.rfftn
        return transform(x, dim=self.dims, norm="ortho")

    def synthesise(self, c: Tensor, like: Tensor) -> Tensor:
        inverse = torch.fft.ifftn if like.is_complex() else torch.fft.irfftn
        return inverse(c, s=[like.shape[d] for d in self.dims], dim=self.dims, norm="ortho")

    @staticmethod
    def frequencies(length: int, rate: float = 1.0) -> Tensor:
        """What the coefficients of a real input of this length stand for, at `rate` samples a second in Hz."""
        return torch.fft.rfftfreq(length, 1 / rate)


@dataclass(frozen=True)
class STFT(Basis):
    """The short-time Fourier transform of the last axis: which frequency, when.

    n_fft   samples in a window
    hop     samples from one window to the next; None: a quarter of a window
    window  "hann", "half-sine", "rectangle", or a tensor of `n_fft` weights

    The windows overlap, so that there are more coefficients than samples and the synthesis is not the only one that
    gives the signal back: it is the usual one, each window's inverse transform weighted with the window again and
    divided by the sum of squared weights. Relevance is shared among the windows by these weights.
    Shapes: [..., T] -> [..., n_fft // 2 + 1, T // hop + 1], complex. The signal is real.
    """

    n_fft: int
    hop: int | None = None
    window: str | Tensor = "hann"

    def __post_init__(self) -> None:
        if self.n_fft < 2 or not 1 <= self._hop <= self.n_fft:
            raise InputError(f"a window must have at least 2 samples and hop lie in 1 to n_fft, got {self}")
        weights = self._weights(torch.zeros(0, dtype=torch.float64))
        covered = torch.zeros(self._hop, dtype=torch.float64)
        covered.index_add_(0, torch.arange(self.n_fft) % self._hop, weights.square())
        if not bool((covered > 1e-10).all()):
            raise InputError(
                f"windows of {self.n_fft} samples, {self._hop} apart, leave samples without weight, so that the signal "
                "cannot be had back: choose a smaller hop or another window"
            )

    @property
    def _hop(self) -> int:
        return max(self.n_fft // 4, 1) if self.hop is None else self.hop

    def _weights(self, like: Tensor) -> Tensor:
        options: Any = {"dtype": like.dtype, "device": like.device}
        if isinstance(self.window, Tensor):
            if tuple(self.window.shape) != (self.n_fft,):
                raise InputError(f"the window must hold {self.n_fft} weights, got shape {tuple(self.window.shape)}")
            return self.window.to(**options)
        at = torch.arange(self.n_fft, **options)
        if self.window == "hann":
            return torch.hann_window(self.n_fft, **options)
        if self.window == "half-sine":
            return torch.sin(math.pi * (at + 0.5) / self.n_fft)
        if self.window == "rectangle":
            return torch.ones_like(at)
        raise InputError(f'window must be "hann", "half-sine", "rectangle" or a tensor, got {self.window!r}')

    def analyse(self, x: Tensor) -> Tensor:
        if x.is_complex():
            raise InputError("a short-time transform wants a real signal, got a complex one")
        if x.shape[-1] <= self.n_fft // 2:
            raise InputError(f"a signal of {x.shape[-1]} samples is too short for windows of {self.n_fft}")
        flat = x.reshape(-1, x.shape[-1])
        c = torch.stft(flat, self.n_fft, self._hop, window=self._weights(x), return_complex=True, normalized=True)
        return c.reshape(*x.shape[:-1], *c.shape[-2:])

    def synthesise(self, c: Tensor, like: Tensor) -> Tensor:
        flat = c.reshape(-1, *c.shape[-2:])
        found = torch.istft(
            flat, self.n_fft, self._hop, window=self._weights(like), normalized=True, length=like.shape[-1]
        )
        return found.reshape(like.shape)

    def frequencies(self, rate: float = 1.0) -> Tensor:
        """What the rows stand for, at `rate` samples a second in Hz."""
        return torch.fft.rfftfreq(self.n_fft, 1 / rate)

    def times(self, frames: int, rate: float = 1.0) -> Tensor:
        """The middle of each window."""
        return torch.arange(frames) * (self._hop / rate)


@dataclass(frozen=True, eq=False)
class Matrix(Basis):
    """A basis of the user's: `c = A x`, `x = A^-1 c`.

    matrix  square, [D, D], real or complex (then the input is the real part of the synthesis)
    dim     the axis of the input that it stands for; None: all axes of a sample, flattened

    Raises:
        InputError: where the matrix is not square, or so near to singular that no digit of the input comes back.
    """

    matrix: Tensor
    dim: int | None = -1

    def __post_init__(self) -> None:
        m = self.matrix
        if m.ndim != 2 or m.shape[0] != m.shape[1] or not (m.is_floating_point() or m.is_complex()):
            raise InputError(f"the matrix of a basis must be square, got {m.dtype} of shape {tuple(m.shape)}")
        if not bool(torch.isfinite(m).all()):
            raise InputError("the matrix of a basis holds NaN or infinity")
        condition = float(torch.linalg.cond(m.to(torch.complex128 if m.is_complex() else torch.float64)))
        if not condition < 0.01 / torch.finfo(m.dtype).eps:
            raise InputError(
                f"the matrix has no inverse to rely on (condition number {condition:.1e} in {m.dtype}): its rows must "
                "be linearly independent"
            )

    def analyse(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        if rows.shape[-1] != len(self.matrix):
            raise InputError(
                f"the matrix stands for {len(self.matrix)} entries, the input {tuple(x.shape)} has {rows.shape[-1]} "
                + ("a sample" if self.dim is None else f"along axis {self.dim}")
            )
        m = self.matrix.to(x.device)
        m = m.to(torch.promote_types(m.dtype, x.dtype)) if m.is_complex() else m.to(x.dtype)
        return self._back(rows.to(m.dtype) @ m.T, x)

    def synthesise(self, c: Tensor, like: Tensor) -> Tensor:
        inverse = torch.linalg.inv(self.matrix.to(torch.complex128 if self.matrix.is_complex() else torch.float64))
        found = self._back(self._rows(c) @ inverse.to(device=c.device, dtype=c.dtype).T, like)
        return found if like.is_complex() or not found.is_complex() else found.real

    def _rows(self, x: Tensor) -> Tensor:
        if self.dim is None:
            return x.flatten(1)
        if not -x.ndim < self.dim < x.ndim or self.dim == 0:
            raise InputError(f"axis {self.dim} is none of an input of shape {tuple(x.shape)}, or its samples")
        return x.movedim(self.dim, -1)

    def _back(self, rows: Tensor, like: Tensor) -> Tensor:
        return rows.reshape(like.shape) if self.dim is None else rows.movedim(-1, self.dim)


class _Synthesis(nn.Module):
    """The virtual layer: from coefficients to the input. Linear and without bias: its own gradient is right."""

    def __init__(self, basis: Basis, like: Tensor) -> None:
        super().__init__()
        self.basis, self.like = basis, like
        self.training = False

    def forward(self, c: Tensor) -> Tensor:
        return self.basis.synthesise(c, self.like)


def explain_in(basis: Basis, lrp: LRP, x: Tensor, *args: Any, **options: Any) -> Explanation:
    """Explain a model's output in a basis of its first input.

    basis          `DFT()`, `STFT(n_fft)`, `Matrix(A)`
    x              the input, [N, ...]
    args, options  further inputs of the model, and the options of `LRP.explain`

    The explanation's `relevance` (of the first input) has the shape of the coefficients, is real, and sums to the
    relevance of `x`; its `inputs` are the coefficients. Rules on the model's layers stay what they are.

    The rules must give relevance in proportion to the input (zero, epsilon, gamma, z+, alpha-beta). Those that give
    it to zeros too (z-box, w², flat) divide by the input: an entry near 0 then spreads over all frequencies, and one
    that is 0 has no coefficient to give it to.

    Raises:
        InputError: for an `x` that is no floating tensor with a batch axis or that does not fit the basis, and for
            rules that give relevance to zeros where `x` has them.
    """
    if not isinstance(basis, Basis):
        raise InputError(f"a basis is DFT(), STFT(n_fft), Matrix(A) or a Basis of your own, got {basis!r}")
    check_lrp(lrp, "explain_in")
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()) or x.ndim < 2:
        seen = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"a basis is for a floating input with an axis of samples, got {seen}")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise InputError(f"a basis is not found in {x.dtype}: explain in float32 (model.float(), x.float())")
    kwargs = {k: v for k, v in options.items() if k not in KEYWORDS}
    composite = lrp.composite_for(x, *args, **kwargs)
    if composite.carries() != "nowhere" and bool((x == 0).any()):
        raise InputError(
            f"{composite.name} gives relevance to entries that are 0 (z-box, w², flat), and the input has "
            f"{int((x == 0).sum())} of them: no frequency can carry that. Give the first layer epsilon, gamma or z+"
        )
    x = x.detach()
    coefficients = basis.analyse(x)
    layer = _Synthesis(basis, x)
    _check_inverse(basis, x, layer(coefficients))
    NODES.register_module(layer, "gradient")
    try:
        inspected = LRP(Within(lrp.model, lambda model, c, *more, **named: model(layer(c), *more, **named)), composite)
        return inspected.explain(coefficients, *args, **options)
    finally:
        NODES.forget(layer)


def _check_inverse(basis: Basis, x: Tensor, back: Tensor) -> None:
    """Whether the synthesis gives the input back: a basis of the user's may not."""
    if back.shape != x.shape:
        raise InputError(f"the synthesis of {basis} gives shape {tuple(back.shape)}, the input has {tuple(x.shape)}")
    error = float((back - x).abs().max()) if x.numel() else 0.0
    scale = float(x.abs().max()) if x.numel() else 0.0
    if not error <= 1e3 * torch.finfo(x.dtype).eps ** 0.75 * max(scale, torch.finfo(x.dtype).tiny):
        raise InputError(
            f"the synthesis of {basis} does not give the input back: off by {error:.1e} at a scale of {scale:.1e}"
        )
