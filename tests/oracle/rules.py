"""The rules that are tried: what the user writes and the formula it must equal, one row a setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import relprop as rp
from tests.oracle import formulas as f
from tests.oracle.dense import Dense

TINY = 1e-30  # a stabiliser that changes nothing in float64 but an exact zero


@dataclass(frozen=True)
class Row:
    """`rule` builds the library's rule for a sample of this shape, `formula` the reference for the same."""

    name: str
    rule: Callable[[tuple[int, ...]], rp.Rule]
    formula: Callable[[tuple[int, ...]], Callable[[Dense, torch.Tensor, torch.Tensor], torch.Tensor]]

    def __str__(self) -> str:
        return self.name


def bounds(in_shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A bound for every element of a sample: below and above what the inputs reach."""
    generator = torch.Generator().manual_seed(2)
    low = -6 - torch.rand(in_shape, generator=generator, dtype=torch.float64)
    return low, 6 + torch.rand(in_shape, generator=generator, dtype=torch.float64)


def _rows(name: str, rule: Callable[..., rp.Rule], terms: f.Terms, eps: float = TINY) -> list[Row]:
    return [
        Row(
            f"{name}-{bias}",
            lambda shape, bias=bias: rule(epsilon=eps, bias=bias),
            lambda shape, bias=bias: f.Formula(terms, eps, bias),
        )
        for bias in ("absorb", "zero", "distribute")
    ]


def _z_box(name: str, eps: float, low_high: Callable[[tuple[int, ...]], tuple], bias: str = "absorb") -> Row:
    return Row(
        name,
        lambda shape: rp.ZBox(*low_high(shape), epsilon=eps, bias=bias),
        lambda shape: f.Formula(f.z_box(*low_high(shape)), eps, bias),
    )


RULES = [
    Row("zero", lambda _: rp.Zero(), lambda _: f.Formula(f.plain)),
    *_rows("epsilon", rp.Epsilon, f.plain, 1e-2),
    *_rows("gamma", lambda **k: rp.Gamma(0.25, **k), f.gamma_generalised(0.25)),
    *_rows("gamma-standard", lambda **k: rp.Gamma(0.5, variant="standard", **k), f.gamma_standard(0.5), 1e-3),
    *_rows("z-plus", rp.ZPlus, f.alpha_beta(1, 0)),
    *_rows("alpha1-beta0", lambda **k: rp.AlphaBeta(1, 0, **k), f.alpha_beta(1, 0), 1e-3),
    *_rows("alpha2-beta1", lambda **k: rp.AlphaBeta(2, 1, **k), f.alpha_beta(2, 1)),
    *_rows("w-square", rp.WSquare, f.w_square),
    *_rows("flat", rp.Flat, f.flat),
    _z_box("z-box-scalar", TINY, lambda _: (-4.0, 4.5)),
    _z_box("z-box-one-sided", TINY, lambda _: (0.0, 7.0)),
    _z_box("z-box-tensor", TINY, bounds),
    _z_box("z-box-scalar-zero", TINY, lambda _: (-4.0, 4.5), "zero"),
    _z_box("z-box-scalar-distribute", TINY, lambda _: (-4.0, 4.5), "distribute"),
    # once more with a stabiliser that can be seen, for rules whose rows above hide it
    Row("gamma-eps", lambda _: rp.Gamma(1.0, epsilon=0.1), lambda _: f.Formula(f.gamma_generalised(1.0), 0.1)),
    Row("z-plus-eps", lambda _: rp.ZPlus(epsilon=0.1), lambda _: f.Formula(f.alpha_beta(1, 0), 0.1)),
    Row(
        "alpha3-beta2-eps",
        lambda _: rp.AlphaBeta(3, 2, epsilon=0.1),
        lambda _: f.Formula(f.alpha_beta(3, 2), 0.1),
    ),
    _z_box("z-box-eps", 0.1, lambda _: (-4.0, 4.5)),
]
PASS = Row("pass", lambda _: rp.Pass(), lambda _: f.pass_on)
