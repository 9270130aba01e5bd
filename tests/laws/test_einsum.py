"""`einsum` of several operands, with dots and with a result that is not said, against torch's own gradient.

Operands are joined from the left, and where both sides of such a product depend on the input each takes half. So of n
that do, the last takes 1/2, the one before 1/4, and the first as much as the second.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw
from tests.support.compare import assert_close

#: Equations with the shapes of their operands.
EQUATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "ij,jk,kl->il": ((2, 3), (3, 4), (4, 5)),
    "ij,jk,kl": ((2, 3), (3, 4), (4, 5)),
    "kj,jA,Al": ((2, 3), (3, 4), (4, 5)),
    "ij,jk,kl,lm->im": ((2, 3), (3, 4), (4, 5), (5, 2)),
    "...i,oij,...j->...o": ((2, 3, 4), (5, 4, 6), (2, 3, 6)),
    "...id,...jd,ij->...": ((2, 3, 4), (2, 5, 4), (3, 5)),
    "...i,...i,...i": ((2, 4), (4,), (3, 2, 4)),
    "...i,...i,...i->...": ((2, 1, 4), (3, 4), (2, 3, 4)),
    "bi,...i,ci->bc": ((2, 4), (3, 4), (5, 4)),
    "i...,i...,i->...": ((4, 2), (4, 3, 2), (4,)),
    "a...b,b,b->...": ((2, 3, 4), (4,), (4,)),
    "... , ... , i -> i ...": ((2,), (2,), (3,)),
    "ii,ij,j->": ((3, 3), (3, 2), (2,)),
    "...ij,...jk": ((2, 3, 4), (4, 5)),
}
CASES = [
    (equation, moving)
    for equation, shapes in EQUATIONS.items()
    for n in range(1, len(shapes) + 1)
    for moving in itertools.combinations(range(len(shapes)), n)
]


class Joined(nn.Module):
    def __init__(self, equation: str, operands: list[Tensor], moving: tuple[int, ...]) -> None:
        super().__init__()
        self.equation, self.operands, self.moving = equation, operands, moving

    def forward(self, *given: Tensor) -> Tensor:
        operands = list(self.operands)
        for i, x in zip(self.moving, given, strict=True):
            operands[i] = x * 2.0
        return torch.einsum(self.equation, *operands).reshape(-1)


@pytest.mark.parametrize(("equation", "moving"), CASES, ids=str)
def test_several_operands(equation: str, moving: tuple[int, ...]) -> None:
    operands = [draw(*shape, seed=i + 1) for i, shape in enumerate(EQUATIONS[equation])]
    model, given = Joined(equation, operands, moving), [operands[i] for i in moving]
    leaves = [x.clone().requires_grad_() for x in given]
    y = model(*leaves)
    relevance = draw(*y.shape, seed=9)
    slopes = torch.autograd.grad(y, leaves, relevance / y.detach())

    e = rp.LRP(model, rp.Zero()).explain(*given, target=relevance)
    assert_close(e.output, y.detach(), 1e-12)
    found = e.relevance if len(given) > 1 else (e.relevance,)
    for k, (r, x, slope) in enumerate(zip(found, given, slopes, strict=True)):
        part = 0.5 ** (len(given) - max(k, 1)) if len(given) > 1 else 1.0
        assert_close(r, part * x * slope, 1e-10, f"operand {moving[k]}")
    assert e.audit.unexplained_share < 1e-10


@pytest.mark.parametrize("equation", [e for e, shapes in EQUATIONS.items() if len(shapes) == 3])
@pytest.mark.parametrize("rule", [rp.ZPlus(), rp.Gamma(0.25), rp.Epsilon(0.1)], ids=str)
def test_rules_see_the_product_of_the_constants(equation: str, rule: rp.Rule) -> None:
    """The same as a dense map of the Jacobian."""
    operands = [draw(*shape, seed=i + 1) for i, shape in enumerate(EQUATIONS[equation])]
    model, x = Joined(equation, operands, (1,)), operands[1]
    jacobian = torch.autograd.functional.jacobian(model, x).flatten(1)
    dense = nn.Linear(jacobian.shape[1], jacobian.shape[0], bias=False).double()
    dense.weight.data = jacobian
    relevance = draw(len(jacobian), seed=9)
    found = rp.LRP(model, rule).explain(x, target=relevance).relevance
    wanted = rp.LRP(dense, rule).explain(x.reshape(1, -1), target=relevance[None]).relevance
    assert_close(found.reshape(1, -1), wanted, 1e-9)
