"""Small numerical helpers that every rule shares. Imports torch alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from relprop.errors import RuleError

HALF = (torch.float16, torch.bfloat16)
#: Real numbers in which rules work as they come.
FULL = (torch.float32, torch.float64)

_TAU = {torch.float64: 2.0**-200, torch.complex128: 2.0**-200, torch.float16: 2.0**-10}


def tau(dtype: torch.dtype) -> float:
    """What a zero is replaced by where relevance must stand on it (see `nonzero`).

    A gradient of ordinary size times it is nothing beside the rounding of the dtype, and a relevance divided by it
    is far from its range. In float16 the two meet: a zero stands for 2^-10, and relevance on it has to be below 64.
    """
    return _TAU.get(dtype, 2.0**-40)


def nonzero(a: Tensor) -> Tensor:
    """`a` with its exact zeros replaced by `tau`: relevance `a * g` can then stand on a zero as `g = R / tau`."""
    return torch.where(a == 0, tau(a.dtype), a)


def sign(z: Tensor) -> Tensor:
    """The sign with sign(0) = +1, as every denominator of LRP wants it; of complex numbers the direction, z / |z|."""
    if z.is_complex():
        return torch.where(z == 0, 1.0, z.sgn())
    return torch.where(z < 0, -1.0, 1.0).to(z.dtype)


def positive(t: Tensor) -> Tensor:
    return t.clamp(min=0)


def negative(t: Tensor) -> Tensor:
    return t.clamp(max=0)


def wide(dtype: torch.dtype) -> torch.dtype | None:
    """What sums are to be formed in, where not in their own type: float16 has not the range."""
    return torch.float32 if dtype == torch.float16 else None


#: The context in which autocast is off on every device: rules choose their types themselves.
without_autocast: Callable[[], AbstractContextManager[Any]] = torch._C._DisableAutocast


def autocasts() -> dict[str, torch.dtype]:
    """The devices on which autocast is on, and the type that it takes there."""
    if not torch._C._is_any_autocast_enabled():
        return {}
    devices = torch._C._autocast_supported_devices()
    return {d: torch.get_autocast_dtype(d) for d in devices if torch.is_autocast_enabled(d)}


def as_it_runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under the autocast of this moment, whenever it is called; itself where there is none."""
    casts = autocasts()
    if not casts:
        return function
    kept = torch.is_autocast_cache_enabled()

    def call(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for device, dtype in casts.items():
                stack.enter_context(torch.autocast(device, dtype, cache_enabled=kept))
            return function(*args, **kwargs)

    return call


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum of products as a scalar tensor that stays on the device."""
    if x.dtype != y.dtype or x.dtype not in FULL:
        if x.is_complex() or y.is_complex():
            return (x.conj() * y).real.sum()
        x, y = x.float(), y.float()
    if x.shape != y.shape:
        x, y = torch.broadcast_tensors(x, y)
    if x.ndim == 1:
        return torch.dot(x, y)
    if not (x.is_contiguous() and y.is_contiguous()):
        if x.stride() != y.stride():  # to lay them out alike would be two copies
            return (x * y).sum()
        order = sorted(range(x.ndim), key=x.stride, reverse=True)  # as they lie in memory
        x, y = x.permute(order), y.permute(order)
    return torch.dot(x.reshape(-1), y.reshape(-1))


def unmasked(value: Tensor, g: Tensor) -> Tensor:
    """`dot(value, g)`, where an infinite value (a mask) to which no gradient comes counts nothing."""
    return dot(torch.where(g == 0, 0.0, value), g)


def numbers(scalars: Sequence[Tensor]) -> list[float]:
    """The values (real parts) of tensors of one entry. A device is waited for once."""
    if all(s.is_cpu for s in scalars):
        return [s.item().real for s in scalars]
    wide = [s.real.reshape(()).double() for s in scalars]
    if len({s.device for s in scalars}) > 1:
        wide = [s.cpu() for s in wide]
    return torch.stack(wide).tolist()


#: Fewer rows than these are not worth a look (see `occupied`).
MANY = 64


def occupied(g: Tensor, dim: int) -> Tensor | None:
    """Where `g` is not zero throughout, along a dimension along which it mostly is; None where it is not.

    One look into the midst tells as a rule that it is not. Where a device would be waited for nobody looks.
    """
    count = g.shape[dim]
    if count < MANY or not (g.is_cpu and g.numel()) or torch.is_grad_enabled():
        return None
    if bool(g.select(dim, 5 * count // 11 + 1).any()):
        return None
    found = g.abs().amax([d for d in range(g.ndim) if d != dim % g.ndim]).nonzero().view(-1)
    return found if 0 < 4 * len(found) <= count else None


def vjp(function: Callable[..., Tensor], operands: Sequence[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    """The vector-Jacobian products of `function` at its operands; differentiable in operands and `g` where gradients
    are recorded."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        given = [x.view_as(x) if recorded and x.requires_grad else x.detach().requires_grad_() for x in operands]
        y = function(*given)
    return torch.autograd.grad(y, given, g, create_graph=recorded)


def multiple(times: float, x: Tensor, y: Tensor) -> Tensor:
    """`times * x * y`, in one pass where no derivative is wanted."""
    if torch.is_grad_enabled():
        return x * y if times == 1 else times * x * y
    return x * y if times == 1 else torch.addcmul(x.new_zeros(()), x, y, value=times)


def reduce_to(g: Tensor, shape: torch.Size) -> Tensor:
    """Sum a broadcast gradient back to `shape`."""
    return g if g.shape == shape else g.sum_to_size(shape)


def check_number(owner: Any, name: str, low: float = 0.0, also: str = "") -> None:
    """Refuse a parameter that is not one finite number >= `low`. Raises `RuleError`.

    also   what else the parameter may be, as the message says it
    """
    value = getattr(owner, name)
    if isinstance(value, Tensor):
        single = value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    else:  # torch does not calculate with a Fraction
        single = isinstance(value, Real) and not isinstance(value, (bool, Fraction))
    if not (single and low <= value < math.inf):
        raise RuleError(f"{type(owner).__name__}: {name} must be a finite number >= {low:g}{also}, got {value!r}")


def check_epsilon(owner: Any) -> None:
    """Refuse an `epsilon` that is none of `Epsilons`. Raises `RuleError`."""
    if not callable(owner.epsilon):
        check_number(owner, "epsilon", also=", a Stabilizer or a function of the denominator")


def check_choice(owner: Any, name: str, words: Sequence[str]) -> None:
    """Refuse a parameter that is none of `words`. Raises `RuleError`."""
    value = getattr(owner, name)
    if not (isinstance(value, str) and value in words):
        quoted = [f'"{word}"' for word in words]
        listed = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
        raise RuleError(f"{type(owner).__name__}: {name} must be {listed}, got {value!r}")


@dataclass(frozen=True)
class Stabilizer:
    r"""Keep a denominator away from zero.

    default:      z + eps sign(z)
    `clip`:       sign(z) max(|z|, eps)
    `norm_scale`: eps is multiplied by the root mean square of z over all dimensions but the first

    sign(0) is +1. [zennit's Stabilizer has the same three forms]
    """

    epsilon: float = 1e-6
    clip: bool = False
    norm_scale: bool = False

    def __post_init__(self) -> None:
        check_number(self, "epsilon")

    def __call__(self, z: Tensor) -> Tensor:
        eps: float | Tensor = self.epsilon
        if self.norm_scale:
            dims = tuple(range(1, z.ndim)) or (0,)
            eps = eps * (z.abs() if z.is_complex() else z).square().mean(dims, keepdim=True).sqrt()
        if self.clip:
            return sign(z) * z.abs().clamp(min=eps)
        if isinstance(eps, float) and eps == 0.0:
            return z
        return z + sign(z) * eps


Epsilons = float | Stabilizer | Callable[[Tensor], Tensor]


def stabiliser(epsilon: Epsilons) -> Callable[[Tensor], Tensor]:
    """The function that `epsilon` stands for: a number, a `Stabilizer` or any callable on the denominator."""
    if callable(epsilon):
        return epsilon
    return Stabilizer(float(epsilon))


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, and 0 where the denominator is exactly 0 (an empty sum carries nothing)."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


#: So many entries stay in a core's cache, in float32 and with what is made of them.
_PART = 1 << 16


def entrywise(make: Callable[..., Tensor], *tensors: Tensor, dtype: torch.dtype) -> Tensor:
    """`make` of tensors of one shape, entry by entry, in `dtype`.

    Half precision is worked on in copies in float32, which `make` may change; on a CPU a part at a time, so that these
    do not leave the cache.
    """
    if tensors[0].dtype not in HALF:
        made = make(*tensors)
        return made if made.dtype == dtype else made.to(dtype)
    size = _PART * torch.get_num_threads()
    if tensors[0].numel() <= size or not all(t.is_cpu and t.is_contiguous() for t in tensors):
        return make(*(t.float() for t in tensors)).to(dtype)
    result = torch.empty_like(tensors[0], dtype=dtype)
    copies = [result.new_empty(size, dtype=torch.float32) for _ in tensors]
    for part, *given in zip(*(t.view(-1).split(size) for t in (result, *tensors)), strict=True):
        if part.numel() < size:
            copies = [c[: part.numel()] for c in copies]
        part.copy_(make(*(c.copy_(t) for c, t in zip(copies, given, strict=True))))
    return result


def damped(g: Tensor, z: Tensor, eps: float, nonneg: bool = False, spent: bool = False) -> Tensor:
    """`g z / (z + eps sign z)`, which is `g - eps g / (|z| + eps)`: the sign cancels, and one block is allocated.

    nonneg   `z` is known to have no negative entry
    spent    and may be written over: then none is
    """
    if torch.is_grad_enabled() or g.is_complex() or g.shape != z.shape:
        return g - eps * g / (z.abs() + eps)
    if nonneg:
        den = z.detach().add_(eps) if spent else z + eps
    else:
        den = z.abs().add_(eps)
    return torch.addcdiv(g, g, den, value=-eps, out=den)


def ratio(g: Tensor, z: Tensor, den: Tensor, eps: float) -> Tensor:
    """`g z / (den + eps sign den)`. `den` becomes the stabilised one where no derivative is wanted."""
    if torch.is_grad_enabled() or g.shape != z.shape:
        return g * z / (den + eps * sign(den))
    den.add_(torch.copysign(den.new_tensor(eps), den))
    return torch.mul(g, z).div_(den)
