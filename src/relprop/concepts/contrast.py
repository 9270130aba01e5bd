r"""Contrast: why this output and not that one.

Most of what speaks for one class speaks for its neighbours too. A contrast puts relevance of both signs on the
outputs, so that what they share cancels. `Difference`, `LogRatio`, `SoftmaxContrast` and `SGLRP` are values
for `target=` of `LRP.explain`; `clrp` compares two explanations.

Notation: `z_n` the outputs (logits, where the model ends with a softmax that is recognised), `t` the target,
`p = softmax(z)`, `R_n` the relevance that output `n` starts with, `C` the number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from relprop.composite import Composite
from relprop.errors import InputError
from relprop.explain import LRP, Explanation, check_lrp
from relprop.explain.seed import Contrast
from relprop.numerics import divide, dot, negative, nonzero, positive
from relprop.ops.base import Books
from relprop.ops.maps import LinearMap
from relprop.rules import LinearRule
from relprop.rules.linear import transpose
from relprop.selectors import Last

Classes = int | Tensor | Sequence[int] | None


@dataclass(frozen=True)
class ClassContrast(Contrast):
    """What the contrasts of classes share.

    target  the class: an index, or one for each sample (or for each place). None: the largest output
    dim     the axis of the classes: 1 in [N, C] and [N, C, H, W], -1 in [N, T, V]
    at      which places of the axes besides samples and classes: an index, a tuple, a slice, or a mask of their
            shape; `...` for all of them. Needed where there are such axes
    """

    target: Classes = None
    dim: int = field(default=1, kw_only=True)
    at: Any = field(default=None, kw_only=True)

    def gradient(self, output: Tensor) -> Tensor:
        z = _classes_last(output, self.dim)
        where = _places(z, self.at)
        g = self._gradient(z, _indices(z, self.target, "target"))
        return torch.where(where.unsqueeze(-1), g, 0.0).movedim(-1, self.dim)

    def _gradient(self, z: Tensor, t: Tensor) -> Tensor:
        """`g` of outputs [N, *places, C] with targets [N, *places]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Difference(ClassContrast):
    """Why the target more than the other: `z_t - z_o`, for probabilities the logarithm of `p_t / p_o`.

    R_t = z_t,   R_o = -z_o,   else 0

    other  the class beside it; None: the largest of the others

    Sums to the difference, which no constant added to all outputs changes.
    """

    other: Classes = None

    def _gradient(self, z: Tensor, t: Tensor) -> Tensor:
        o = _other(z, t, self.other)
        return _one_hot(z, t) - _one_hot(z, o)


@dataclass(frozen=True)
class LogRatio(ClassContrast):
    """What makes the target a multiple of the other, for outputs of one sign (rates, prices, densities).

    f = log(z_t / z_o),   R_n = z_n df/dz_n:   R_t = 1,   R_o = -1,   else 0

    other  the output in the denominator; None: the largest of the others

    The share of each input in the target less its share in the other: a ratio has degree zero, so the relevance sums
    to 0, and what multiplies both outputs alike has none. For logits take `Difference`.

    Raises:
        InputError: where the ratio is not positive.
    """

    other: Classes = None

    def _gradient(self, z: Tensor, t: Tensor) -> Tensor:
        o = _other(z, t, self.other)
        above, below = (z.gather(-1, i.unsqueeze(-1)) for i in (t, o))
        if not bool((above * below > 0).all()):
            at = int((above * below <= 0).flatten().nonzero()[0])
            raise InputError(
                f"a ratio of outputs must be positive, got {above.flatten()[at].item():.3g} over "
                f"{below.flatten()[at].item():.3g}: for outputs of both signs, such as logits, take Difference"
            )
        return _one_hot(z, t) / above - _one_hot(z, o) / below


@dataclass(frozen=True)
class SoftmaxContrast(ClassContrast):
    """Why the target more than all others: its log odds, `log(p_t / (1 - p_t)) = z_t - log sum_{n != t} exp z_n`.

    R_t = z_t,   R_n = -q_n z_n,   q_n = p_n / (1 - p_t), the softmax of the others

    Sums to `sum_n q_n (z_t - z_n)`, the mean lead over the others. Times `1 - p_t` it is the gradient of `log p_t`
    times the logits. [Montavon et al. 2019, sec. 10.4: relevance of the log odds, a soft minimum of differences]
    """

    def _gradient(self, z: Tensor, t: Tensor) -> Tensor:
        chosen = _one_hot(z, t)
        others = torch.softmax(z.masked_fill(chosen > 0, -torch.inf), -1)
        return chosen - others


@dataclass(frozen=True)
class SGLRP(ClassContrast):
    """The gradient of the target's probability, taken as relevance.

    R_t = p_t (1 - p_t),   R_n = -p_t p_n

    Sums to 0 at the output. Nothing is left where the network is certain (`p_t = 1`): then take `SoftmaxContrast`.
    [Iwana, Kuroki, Uchida 2019]
    """

    on_zeros: ClassVar[bool] = True

    def _gradient(self, z: Tensor, t: Tensor) -> Tensor:
        p = torch.softmax(z, -1)
        chosen = _one_hot(z, t)
        at_target = (p * chosen).sum(-1, keepdim=True)
        # sums the others instead of 1 - p_t, which is rounding where the network is nearly certain
        others = (p * (1 - chosen)).sum(-1, keepdim=True)
        return at_target * torch.where(chosen > 0, others, -p) / nonzero(z)


@dataclass(frozen=True)
class OtherClasses(ClassContrast):
    """The dual of a class in CLRP: all others.

    share  "uniform": the target's value in equal parts, `R_n = |z_t| / (C - 1)`; "logits": `R_n = |z_n|`
    """

    share: Literal["uniform", "logits"] = "uniform"
    on_zeros: ClassVar[bool] = True

    def _gradient(self, z: Tensor, t: Tensor) -> Tensor:
        chosen = _one_hot(z, t)
        value = (z * chosen).sum(-1, keepdim=True).abs() / (z.shape[-1] - 1) if self.share == "uniform" else z.abs()
        return torch.where(chosen > 0, 0.0, value) / nonzero(z)


@dataclass(frozen=True)
class Magnitude(ClassContrast):
    """The size of the target: `R_t = |z_t|`."""

    def _gradient(self, z: Tensor, t: Tensor) -> Tensor:
        return _one_hot(z, t) * torch.where(z < 0, -1.0, 1.0)


# -- two explanations ------------------------------------------------------------------------------------------------


@dataclass
class Contrasted:
    """A class's explanation beside that of its opposite.

    relevance  max(0, R / sum R - R' / sum R'), sums over each sample; without `clip` of both signs
    target     the explanation R of the class
    dual       the explanation R' of its opposite
    """

    relevance: Any
    target: Explanation
    dual: Explanation


def clrp(
    lrp: LRP,
    *args: Any,
    target: Classes = None,
    dual: Literal["uniform", "logits", "negated"] = "uniform",
    dim: int = 1,
    at: Any = None,
    clip: bool = True,
    **kwargs: Any,
) -> Contrasted:
    """Contrastive LRP: what is more relevant to a class than to its opposite.

    R_clrp = max(0, R / sum R - R' / sum R'),   R from the target's |z_t|, R' from its dual

    dual  "uniform"  all other classes share |z_t| equally (CLRP1)
          "logits"   the other classes start with |z_n| (CLRP1 as the authors' code has it)
          "negated"  |z_t| passes the last linear map by its negated weights, `(a_j w_jt)-` alone, without bias (CLRP2)
    clip  False keeps what is more relevant to the dual, as negative values

    args, kwargs, target, dim, at: as for `LRP.explain` and the other contrasts. The first two duals cost one forward
    and two backwards. Meant for rules that give relevance one sign (`EpsilonPlus`, z+), as the paper has them: where
    an explanation sums to nothing it cannot be compared. [Gu, Yang, Tresp 2018]

    Raises:
        InputError: for an unknown dual; where a sample's relevance sums to 0.
    """
    check_lrp(lrp, "clrp")
    if dual not in ("uniform", "logits", "negated"):
        raise InputError(f'dual must be "uniform", "logits" or "negated", got {dual!r}')
    several: list[str] = [k for k in ("targets", "seed") if k in kwargs]
    if "conditions" in kwargs and not isinstance(kwargs["conditions"], Mapping):
        several.append("a list of conditions")
    if several:
        raise InputError(f"clrp explains one target with seeds of its own: it takes no {' or '.join(several)}")
    own = Magnitude(target, dim=dim, at=at)
    if dual == "negated":
        one = lrp.explain(*args, target=own, **kwargs)
        composite = lrp.composite_for(*args, **kwargs)
        rows = [(Last(), NegatedWeights()), *composite.rows]
        other = LRP(lrp.model, Composite(rows, f"CLRP2 of {composite.name}")).explain(*args, target=own, **kwargs)
    else:
        one, other = lrp.explain(*args, targets=[own, OtherClasses(target, dual, dim=dim, at=at)], **kwargs)
    return Contrasted(_subtract(one.relevance, other.relevance, clip), one, other)


@dataclass(frozen=True)
class NegatedWeights(LinearRule):
    """z+ of a map whose weights are negated: its target's opposite, in CLRP2's last layer.

    R_j = sum_k  (a_j w_jk)- / sum_j (a_j w_jk)-  R_k

    Without bias. An output that no input speaks against passes nothing on: the books call it excess.
    """

    rectifies: ClassVar[bool] = False

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        above, below = positive(a), negative(a)
        plus, minus = positive(op.weight), negative(op.weight)
        against = (op.apply(above, minus) + op.apply(below, plus)).to(z.dtype)
        relevance = self._relevance(op, z, g)
        s = divide(relevance, against)
        books.add("excess", dot((against == 0).to(g.dtype), relevance))
        return torch.where(a > 0, transpose(op, s, minus, a), torch.where(a < 0, transpose(op, s, plus, a), 0.0))


def _subtract(one: Any, other: Any, clip: bool) -> Any:
    if isinstance(one, tuple):
        return tuple(_subtract_all(list(one), list(other), clip))
    if isinstance(one, dict):
        return dict(zip(one, _subtract_all(list(one.values()), list(other.values()), clip), strict=True))
    return _subtract_all([one], [other], clip)[0]


def _subtract_all(ones: list[Tensor], others: list[Tensor], clip: bool) -> list[Tensor]:
    """Both on the scale of their sums, one for all inputs of a sample."""
    totals = []
    for name, parts in (("target", ones), ("dual", others)):
        total = torch.stack([p.flatten(1).sum(1) for p in parts]).sum(0)
        if not bool((total != 0).all()):
            raise InputError(
                f"the {name}'s relevance of sample {int((total == 0).nonzero()[0])} sums to 0, so that it cannot be "
                "compared: take rules that conserve (EpsilonPlus), another dual, or a target whose value is not 0"
            )
        totals.append(total)
    found = [
        one / totals[0].view(-1, *[1] * (one.ndim - 1)) - other / totals[1].view(-1, *[1] * (one.ndim - 1))
        for one, other in zip(ones, others, strict=True)
    ]
    return [f.clamp(min=0) for f in found] if clip else found


# -- which classes, where --------------------------------------------------------------------------------------------


def _classes_last(output: Tensor, dim: int) -> Tensor:
    """[N, *places, C]"""
    shape = tuple(output.shape)
    if output.ndim < 2 or not -output.ndim < dim < output.ndim or dim == 0:
        raise InputError(
            f"a contrast needs an output of samples and classes with dim= the classes' axis; got shape {shape} and "
            f"dim={dim}"
        )
    if output.shape[dim] < 2:
        raise InputError(f"a contrast needs at least two classes; axis {dim} of the output {shape} has one")
    return output.movedim(dim, -1)


def _indices(z: Tensor, classes: Classes, name: str) -> Tensor:
    """The class of every place, [N, *places]."""
    if classes is None:
        return z.argmax(-1)
    if isinstance(classes, bool) or not isinstance(classes, (int, Tensor, list, tuple)):
        raise InputError(f"{name} must be an index, or one for each sample, got {classes!r}")
    found = torch.as_tensor(classes, device=z.device)
    count, shape = z.shape[-1], tuple(z.shape[:-1])
    if found.is_floating_point() or found.dtype == torch.bool:
        raise InputError(f"{name} must hold indices of classes, got {found.dtype}")
    if bool(((found < -count) | (found >= count)).any()):
        raise InputError(f"{name} {found.tolist()} is out of range: the output has {count} classes")
    if found.ndim == 1:
        found = found.view(-1, *[1] * (len(shape) - 1))
    try:
        return torch.remainder(found, count).expand(shape)
    except RuntimeError:
        raise InputError(
            f"{name} must be one index, one for each of the {shape[0]} samples, or one for each place {shape}; got "
            f"shape {tuple(found.shape)}"
        ) from None


def _other(z: Tensor, t: Tensor, other: Classes) -> Tensor:
    if other is None:
        return z.masked_fill(_one_hot(z, t) > 0, -torch.inf).argmax(-1)
    o = _indices(z, other, "other")
    if bool((o == t).any()):
        raise InputError(f"target and other are the same class, {int(t[o == t][0])}: there is nothing between them")
    return o


def _places(z: Tensor, at: Any) -> Tensor:
    """Which places are explained, [N, *places]."""
    shape = tuple(z.shape[:-1])
    if at is None or at is ...:
        if at is None and len(shape) > 1:
            raise InputError(
                f"the output has {len(shape) - 1} axes besides samples and classes, {shape[1:]}: say where with at=: "
                "-1 for the last token, a mask, or at=... for all places"
            )
        return torch.ones(shape, dtype=torch.bool, device=z.device)
    found = torch.zeros(shape, dtype=torch.bool, device=z.device)
    if isinstance(at, Tensor) and at.dtype == torch.bool:
        if tuple(at.shape) not in (shape, shape[1:]):
            raise InputError(f"a mask of places must have shape {shape[1:]} or {shape}, got {tuple(at.shape)}")
        return found | at.to(z.device)
    index = at if isinstance(at, tuple) else (at,)
    try:
        found[(slice(None), *index)] = True
    except (IndexError, TypeError) as error:
        raise InputError(f"at={at!r} does not index the places {shape[1:]}: {error}") from None
    return found


def _one_hot(z: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(z).scatter_(-1, index.unsqueeze(-1), 1.0)
