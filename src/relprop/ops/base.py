"""What a torch call is, as far as relevance is concerned.

A call is parsed into an `Op` (it takes a rule), a `Native` (its gradient already is LRP-0) or an `Expansion` (it is
rewritten into calls that are parsed in turn). None of them knows about autograd or about rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from relprop.errors import UnknownOperationError
from relprop.numerics import unmasked, vjp

Share = Callable[[Tensor], Tensor]
"""From the gradient `g` at the output to the relevance that a call's constants absorb."""


Kept = tuple[Sequence[Tensor | None], Sequence[Tensor | None]]
"""What the backward is given in the place of operands and outputs."""


class Books(Protocol):
    """Where a rule writes down the relevance that does not reach an operand: `times * amount`.

    dense   in how many maps of rows most of these had relevance
    spent   whether nobody reads a tensor any more that the graph kept, so that it may be written over
    """

    dense: int

    def add(self, entry: str, amount: Tensor, times: float = 1.0) -> None: ...
    def spent(self, kept: Tensor) -> bool: ...


class Fact:
    """What is known about one tensor without looking at its values.

    nonneg    no entry is negative
    stem      the tensors it was made from by elementwise calls, nearest first
    chained   a call without degree stands in that stem: it is attached to `stem[0]` by one identity node
    inverse   it is a negative power (one over a standard deviation): a constant in products
    power     only affine calls and powers stand in its stem
    pad       it is a constant zero pad: a tensor of its shape with zeros on the pad
    lift      it is a pad: pads a tensor of its source's shape in the same way
    gate      how much it looks like a gate: 3 selected from a softmax (a router), 2 from a sigmoid or softmax,
              1 from another activation, else 0
    exponent  it is the exponential of this tensor
    weighed   times constants, such as a mask
    shift     it is the first of these tensors plus or less the second; a number: `stem[0]` plus or less that
    total     it is a sum of exponentials, which a softmax divides by
    over      it is one over such a sum
    logarithm it is the logarithm of the softmax of this tensor along these dimensions
    logsum    it is the logarithm of the sum of exponentials of this tensor along these dimensions
    """

    nonneg = False
    stem: tuple[Any, ...] = ()
    chained = False
    inverse = False
    power = True
    gate = 0
    pad: Callable[[Tensor], Tensor] | None = None
    lift: Callable[[Tensor], Tensor] | None = None
    producer: Any = None
    step: Any = None
    exponent: Any = None
    weighed = False
    shift: Any = None
    total: Any = None
    over: Any = None
    logarithm: Any = None
    logsum: Any = None


class Op:
    """One call that takes a rule.

    family    the rule method that serves it: `rule.<family>(op, ...)`
    kind      the word that `Kind(...)` selects it by
    """

    family: ClassVar[str]
    kind: str

    #: Set by the parser and taken away by the recorder, so that no op keeps an activation alive.
    operands: tuple[Tensor, ...] = ()
    run: Callable[[], Any] | None = None
    #: Facts about the output, for calls that follow.
    fact: Fact | None = None
    #: For linear maps: the output stands as max(z, 0), for a ReLU is its only reader.
    rectified: bool = False
    #: f(t x) = t f(x) for t > 0, constants aside: the native gradient carries the relevance.
    degree_one: bool = False
    #: Relevance may stand on zeros here (a rule above gives relevance to zeros).
    carrying: bool = False
    #: It stands for one operand of a site, whose output is accounted for elsewhere.
    within: bool = False
    #: The linear map that made the operand, where this call is a batch norm that joins it.
    merged_into: Any = None
    #: What came to it past the graph, for the next `pull`.
    brought: Any = None
    #: Its own `pull` does the work, also where torch's gradient would do.
    explicit: bool = False

    def bind(self, rule: Any) -> None:
        """Learn the rule before the call runs, where it changes what the call has to keep."""

    def take(self) -> tuple[tuple[Tensor, ...], Callable[[], Any]]:
        operands, run = self.operands, self.run
        self.operands, self.run = (), None
        assert run is not None
        return operands, run

    def keep(self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor]) -> Kept:
        """What `pull` is to be given for operands and outputs: themselves, None, or what stands for them."""
        of_operands, of_outputs = rule.keeps(self)
        return (
            operands if of_operands else (None,) * len(operands),
            outputs if of_outputs else (None,) * len(outputs),
        )

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Books,
    ) -> tuple[Tensor | None, ...]:
        """The modified gradients of the operands. The default, for one operand, asks the rule's method `family`."""
        return (getattr(rule, self.family)(self, operands[0], outputs[0], gs[0], books),)


class Called(Op):
    """Any call by its own gradient, where that does not conserve: what it gains or loses is the books' excess.

    call   the call as a function of the operands
    """

    family = "fixed"

    def __init__(self, op: Op, call: Callable[..., Any]) -> None:
        self.kind, self._call = op.kind, call

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Books,
    ) -> tuple[Tensor | None, ...]:
        pulled = vjp(lambda *given: self._call(*given), operands, gs[0])
        books.add("excess", unmasked(outputs[0], gs[0]))
        for x, g in zip(operands, pulled, strict=True):
            books.add("excess", unmasked(x, g), -1.0)
        return pulled


class Native:
    """A call that runs as it is: its own gradient carries the relevance.

    share     the relevance that its constants absorb, from the gradient at the output
    run       carries the call out from `operands`, the tensors through which relevance passes; None: the call itself
    form      what the carrying form has to do: "move" nothing, "scale" pass relevance element by element,
              "reduce" stabilise a sum
    """

    __slots__ = ("fact", "form", "operands", "run", "share")

    def __init__(
        self,
        *,
        form: str = "move",
        share: Share | None = None,
        fact: Fact | None = None,
        run: Callable[..., Any] | None = None,
        operands: tuple[Tensor, ...] = (),
    ) -> None:
        self.form, self.share, self.fact, self.run, self.operands = form, share, fact, run, operands


class Expansion:
    """A call that is carried out by other torch calls, which are parsed one by one."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run


class Call(Protocol):
    """What a parser is given: the call, and what is known about its tensors."""

    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def path(self) -> str: ...
    def depends(self, value: Any) -> bool: ...
    def constant(self, tensor: Tensor) -> Tensor: ...
    def cut(self, tensor: Tensor) -> Tensor: ...
    def module(self) -> Any: ...
    def fact(self, tensor: Tensor) -> Fact | None: ...
    def bind(self, names: str, **defaults: Any) -> list[Any]: ...
    def run(self) -> Any: ...


def without_rule(call: Call, what: str) -> UnknownOperationError:
    """The error for a form of a call that has no rule, where others have."""
    return UnknownOperationError(
        f"{call.name}: {what}. Give the module around it one: relprop.register_module(TheModule, 'gradient')"
    )


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
