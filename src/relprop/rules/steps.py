"""Rules of your own by overriding one step of the general rule for linear maps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from relprop.errors import RuleError
from relprop.numerics import Epsilons, dot, nonzero, stabiliser
from relprop.ops.base import Books
from relprop.ops.maps import LinearMap
from relprop.ops.pool import Pool
from relprop.rules.linear import LinearRule, transpose


@dataclass(frozen=True)
class StepRule(LinearRule):
    r"""The general rule for linear maps in steps that a subclass overrides, one or more of them.

        R_j = sum_k  a'_j w'_jk / s(z'_k)  R_k,     z'_k = sum_j a'_j w'_jk + b'_k

    step                          gives          default
    ----------------------------  -------------  -----------------------------------------
    `modify_input(a)`             a'             a
    `modify_parameters(p)`        w' and b'      p
    `modify_weight(w)`            w'             `modify_parameters(w)`
    `modify_bias(b)`              b'             `modify_parameters(b)`
    `modify_layer(op)`            w' and b'      `modify_weight(op.weight)`, `modify_bias(op.bias)`
    `modify_denominator(z)`       s(z')          z' + epsilon sign(z')
    `is_compatible(op)`           whether the rule serves a linear map

    So the gamma rule is `modify_parameters = p + gamma p.clamp(min=0)`, the flat rule is `modify_input = ones`,
    `modify_weight = ones`, `modify_bias = zeros`. Weights are those of the map with a batch norm behind it merged in.
    `bias="zero"` leaves b' out, whatever `modify_bias` gives. Conserves up to the shares of bias and epsilon.

    A pool takes it where a selector names pools, `(Kind("pool"), MyRule())`: it has no parameters, so that input and
    denominator alone count.

    [Montavon et al. 2019, sec. 10.3.1: the generic rule in four steps]
    """

    epsilon: Epsilons = 1e-9

    def modify_input(self, a: Tensor) -> Tensor:
        return a

    def modify_parameters(self, p: Tensor) -> Tensor:
        return p

    def modify_weight(self, w: Tensor) -> Tensor:
        return self.modify_parameters(w)

    def modify_bias(self, b: Tensor) -> Tensor | None:
        return self.modify_parameters(b)

    def modify_layer(self, op: LinearMap) -> tuple[Tensor, Tensor | None]:
        """The map's weight and bias as the rule sees them. `op.kind` is "conv", "linear", "matmul" or "scale"."""
        return self.modify_weight(op.weight), None if op.bias is None else self.modify_bias(op.bias)

    def modify_denominator(self, z: Tensor) -> Tensor:
        return stabiliser(self.epsilon)(z)

    def is_compatible(self, op: LinearMap | Pool) -> bool:
        return True

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        if not self.is_compatible(op):
            raise RuleError(f"{self} says of itself that it is not compatible with a map of kind {op.kind!r}")
        w, b = self.modify_layer(op)
        if self.bias == "zero":
            b = None
        x = self.modify_input(a)
        replaced = x is not a
        if replaced:
            x = op.support(x)
        den = op.apply(x, w, b).to(z.dtype)
        stable = self.modify_denominator(den)
        if stable.shape != den.shape:
            raise RuleError(f"{self}: modify_denominator made {tuple(stable.shape)} of {tuple(den.shape)}")
        s = self._relevance(op, z, g) / stable
        r = transpose(op, s, w, a)
        if not replaced:
            return self._settle(op, a, r, s, den, stable, b, books)
        books.add("epsilon", dot(s, stable - den))
        if b is not None:
            books.add("bias", op.bias_share(s, b))
        return x * r / nonzero(a)

    def pool(self, op: Pool, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        if not self.is_compatible(op):
            raise RuleError(f"{self} says of itself that it is not compatible with a {op.kind}")
        a = self.modify_input(x)
        z = y if a is x else op.form(a)
        stable = self.modify_denominator(z)
        if stable.shape != z.shape:
            raise RuleError(f"{self}: modify_denominator made {tuple(stable.shape)} of {tuple(z.shape)}")
        s = g * nonzero(y) / stable
        books.add("epsilon", dot(s, stable - z))
        r = op.vjp(s, a)
        return r if a is x else a * r / nonzero(x)

    @property
    def by_output(self) -> bool:  # type: ignore[override]
        return False

    @property
    def gives_zeros(self) -> bool:  # type: ignore[override]
        return self.bias == "distribute" or type(self).modify_input is not StepRule.modify_input
