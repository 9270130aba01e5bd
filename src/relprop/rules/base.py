"""What a rule is: a value that says how relevance passes an operation.

A rule has one method for every family of operations that it serves, named like the family: `linear`, `elementwise`,
`sum`, `product`, `pool`, `norm`, `softmax`, `attention`, `recurrent`. Each takes the operation, the saved operands
and output, the modified gradient `g` at the output (the relevance there is `output * g`) and the books, and returns
the modified gradient at the operand (a tuple of them where there are several).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from relprop.errors import RuleError
from relprop.numerics import nonzero
from relprop.ops.base import Books, Op

FAMILIES = ("linear", "elementwise", "sum", "product", "pool", "norm", "softmax", "attention", "recurrent",
            "selection")  # fmt: skip


#: By these a rule says what it does: `pull` is the linear rules' own.
_METHODS = frozenset((*FAMILIES, "pull"))


def _ours(cls: type) -> bool:
    return cls.__module__ == "builtins" or cls.__module__.startswith("relprop.")


def as_is(g: Tensor) -> Tensor:
    """The gradient runs natively."""
    return g


@dataclass(frozen=True)
class Rule:
    """Base of all rules: frozen, compared and printed by its parameters.

    home         the families that the rule is given to by a selector that names no kind
    gives_zeros  whether it gives relevance to entries that are zero
    rectifies    for linear maps: whether the rule reads `z` only as `g * z`, so that where a ReLU is the map's only
                 reader, the ReLU's output may stand for `z` (and masks `g` by itself)
    by_quotient  for elementwise functions: whether the rule reads `x` and `y` only as `y / x`, which it is then given
                 for `x`, and no `y`
    by_output    for linear maps: whether each output is passed by itself, so that those without relevance may be left
                 out
    """

    home: ClassVar[tuple[str, ...]] = ()
    gives_zeros: ClassVar[bool] = False
    rectifies: ClassVar[bool] = False
    by_output: ClassVar[bool] = False
    by_quotient: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """A rule of somebody else's that has a method of its own, or takes one from a class beside ours, is taken at
        that: what we know of the method that it replaces holds no longer, unless it says so itself."""
        super().__init_subclass__(**options)
        order = cls.__mro__
        own = next((i for i, c in enumerate(order) if not _ours(c) and not _METHODS.isdisjoint(vars(c))), None)
        if own is None:
            return
        for name in ("native", "constant", "keeps", "rectifies", "by_output", "by_quotient"):
            if next(i for i, c in enumerate(order) if name in vars(c)) > own:
                setattr(cls, name, getattr(Rule, name))

    def serves(self, family: str) -> bool:
        return family == "fixed" or callable(getattr(self, family, None))

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        """If torch's own gradient does the work: what is done to `g` before it. None: the rule's method does."""
        return None

    def constant(self, op: Any) -> bool:
        """Whether nothing passes: the result counts as a constant."""
        return False

    def keeps(self, op: Op) -> tuple[bool, bool]:
        """Whether operands and output are needed in the backward."""
        return True, True

    def __str__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                shown.append(f"{f.name}=<tensor {tuple(value.shape)}>")
            elif value != f.default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True)
class Gradient(Rule):
    """Torch's own gradient: for softmax this is AttnLRP's rule, for a linear map LRP-0.

    Conserves where the operation is of degree one.
    """

    home: ClassVar[tuple[str, ...]] = FAMILIES
    by_output: ClassVar[bool] = True

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        return as_is if op.family != "attention" else None

    def _never(self, *args: Any) -> Any:
        raise AssertionError("runs natively")

    linear = elementwise = sum = product = pool = norm = softmax = selection = _never

    def attention(self, op: Any) -> dict[str, float]:
        return dict.fromkeys(op.roles, 1.0)


@dataclass(frozen=True)
class Constant(Rule):
    """Nothing passes: the operation's result counts as a constant, as attention weights do in CP-LRP.

    [Ali et al. 2022, section 3.2]
    """

    home: ClassVar[tuple[str, ...]] = FAMILIES

    def constant(self, op: Any) -> bool:
        return True

    def _never(self, *args: Any) -> Any:
        raise AssertionError("nothing passes")

    linear = elementwise = sum = product = pool = norm = softmax = attention = recurrent = _never


@dataclass(frozen=True)
class Pass(Rule):
    """Relevance passes unchanged, entry by entry; the shapes of input and output must be equal."""

    home: ClassVar[tuple[str, ...]] = ("linear", "elementwise", "norm", "pool", "softmax")

    @property
    def gives_zeros(self) -> bool:  # type: ignore[override]
        return True

    def _pass(self, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        if a.shape != z.shape:
            raise RuleError(
                f"Pass needs an operation that keeps the shape, but {op.kind} maps {tuple(a.shape)} to "
                f"{tuple(z.shape)}: choose another rule for it"
            )
        return g * nonzero(z) / nonzero(a)

    linear = elementwise = norm = pool = softmax = _pass
