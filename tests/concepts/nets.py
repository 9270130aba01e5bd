"""One small network with functional calls and a way around, once with torch and once in explicit relevance form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import relprop as rp
from tests.oracle import formulas as f
from tests.oracle.formulas import Formula
from tests.oracle.tape import Tape, Value

TINY = 1e-30
RULES = {
    "zero": (rp.Zero(), Formula(f.plain)),
    "epsilon": (rp.Epsilon(1e-3), Formula(f.plain, 1e-3)),
    "gamma": (rp.Gamma(0.5, epsilon=TINY), Formula(f.gamma_generalised(0.5), TINY)),
    "z-plus": (rp.ZPlus(epsilon=TINY), Formula(f.alpha_beta(1, 0), TINY)),
    "alpha2-beta1": (rp.AlphaBeta(2, 1, epsilon=TINY), Formula(f.alpha_beta(2, 1), TINY)),
    "z-box": (rp.ZBox(-1.0, 3.0, epsilon=TINY), Formula(f.z_box(-1.0, 3.0), TINY)),
    "w-square": (rp.WSquare(epsilon=TINY), Formula(f.w_square, TINY)),
    "flat": (rp.Flat(), Formula(f.flat)),
}


class Small(nn.Module):
    """[N, 2, 4, 4] -> [N, 5]; `conv2` has a way around."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x).relu()
        return self.head((self.conv2(h) + h).relu().flatten(1))


@dataclass
class Written:
    """The same on a tape: its values by the names that the library gives to the places."""

    x: Value
    y: Value
    tape: Tape
    at: dict[str, Value] = field(default_factory=dict)


def written(
    model: Small, x: Tensor, formula: Formula, masks: dict[str, Tensor] | None = None, around: bool = True
) -> Written:
    """The network on a tape.

    masks   what multiplies relevance below a place
    around  False: nothing passes the way around `conv2`
    """
    t, masks = Tape(), masks or {}
    made = Written(t.leaf(x), t.leaf(x), t)

    def place(name: str, value: Value) -> Value:
        """A place, where relevance is read below its mask."""
        mask = masks.get(name)
        made.at[name] = value
        return value if mask is None else t._step(value.data, (value,), lambda r: (r * mask,))

    h = place("(model).relu", t.elementwise(place("conv1", t.linear(made.x, model.conv1, formula)), torch.relu))
    given = place("conv2:in", t._step(h.data, (h,), lambda r: (r,)))
    inner = place("conv2", t.linear(given, model.conv2, formula))
    total = place("(model).add", t.add(inner, h if around else t.leaf(h.data)))
    flat = t.reshape(place("(model).relu#1", t.elementwise(total, torch.relu)), len(x), -1)
    made.y = t.linear(flat, model.head, formula)
    made.at["head"] = made.y
    return made


def small(seed: int = 0) -> tuple[Small, Tensor, Tensor]:
    """The network, an input with zeros in it, and relevance at the output that has nothing to do with its values."""
    torch.manual_seed(seed)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    x[0, 0, 1] = 0
    return Small().double().eval(), x, torch.randn(2, 5, dtype=torch.float64)
