"""A constant that the model changes in place after it was used counts with the values it had then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp

ONE = torch.ones(1, 2, dtype=torch.float64)


def added(x: Tensor, c: Tensor) -> Tensor:
    y = x + c
    c += 1
    return y


def multiplied(x: Tensor, c: Tensor) -> Tensor:
    y = x * c
    c.mul_(3)
    return y


def subtracted_from(x: Tensor, c: Tensor) -> Tensor:
    y = c - x
    torch.add(c, 1, out=c)
    return y


def product(x: Tensor, c: Tensor) -> Tensor:
    weight = torch.diag(c[0])
    y = x @ weight
    weight.zero_()
    return y


def layer(x: Tensor, c: Tensor) -> Tensor:
    weight, bias = torch.diag(c[0]), c[0].clone()
    y = F.linear(x, weight, bias)
    weight.zero_()
    bias += 5
    return y


def convolved(x: Tensor, c: Tensor) -> Tensor:
    kernel = c[:1, :1, None].clone()
    y = F.conv1d(x[:, None], kernel)[:, 0]
    F.relu(kernel.neg_(), inplace=True)
    return y


def contracted(x: Tensor, c: Tensor) -> Tensor:
    weight = torch.diag(c[0])
    y = torch.einsum("ij,jk->ik", x, weight)
    F.threshold(weight, 9.0, 0.0, True)
    return y


def stacked(x: Tensor, c: Tensor) -> Tensor:
    y = torch.stack([x, c], 1).sum(1)
    c.fill_(7.0)
    return y


def chosen(x: Tensor, c: Tensor) -> Tensor:
    condition = torch.tensor([[False, True]])
    y = torch.where(condition, x, c)
    c += 1
    condition.fill_(True)
    return y


def masked(x: Tensor, c: Tensor) -> Tensor:
    mask, value = torch.tensor([[True, False]]), c[0, 0].clone()
    y = x.masked_fill(mask, value)
    mask.fill_(False)
    value += 1
    return y


def written(x: Tensor, c: Tensor) -> Tensor:
    """A state of which a part is read, and then written: token shift."""
    y = x * 1
    y[:, 0] = c[:, 1]
    c[:, 1] = x[:, 1]
    return y


def seen_as_a_view(x: Tensor, c: Tensor) -> Tensor:
    row = c[0]
    y = x * row + c
    c.zero_()
    return y


def used_before_and_after(x: Tensor, c: Tensor) -> Tensor:
    before = x + c
    c += 1
    return before + x * c


def target_too(x: Tensor, c: Tensor) -> Tensor:
    """The constant absorbs its share of what is added to it."""
    y = x * c
    c += x
    return y + c


def gathered(x: Tensor, c: Tensor) -> Tensor:
    index = torch.tensor([[1, 0]])
    y = x.gather(1, index)
    index.zero_()
    return y


def scattered(x: Tensor, c: Tensor) -> Tensor:
    y = c.scatter_add(1, torch.tensor([[0, 1]]), x)
    c += 1
    return y


#: What is explained of x = (3, 5) with c = (2, 2): relevance of x, and what constants and biases absorb.
CASES: dict[Callable[[Tensor, Tensor], Tensor], tuple[tuple[float, float], float]] = {
    added: ((3, 0), 2), multiplied: ((6, 0), 0), subtracted_from: ((-3, 0), 2), product: ((6, 0), 0),
    layer: ((6, 0), 2), convolved: ((6, 0), 0), contracted: ((6, 0), 0), stacked: ((3, 0), 2), chosen: ((0, 0), 2),
    masked: ((0, 0), 2), written: ((0, 0), 2), seen_as_a_view: ((6, 0), 2), used_before_and_after: ((12, 0), 2),
    target_too: ((9, 0), 2), gathered: ((0, 5), 0), scattered: ((3, 0), 2),
}  # fmt: skip


class Changing(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, 2 * ONE)


@pytest.mark.parametrize("preset", [rp.UniformEpsilon(epsilon=0.0), rp.AttnLRP()], ids=str)
@pytest.mark.parametrize("call", CASES, ids=lambda call: call.__name__)
def test_it_counts_as_it_was(call: Callable[[Tensor, Tensor], Tensor], preset: Any) -> None:
    relevance, absorbed = CASES[call]
    x, model = torch.tensor([[3.0, 5.0]], dtype=torch.float64), Changing(call)
    found = rp.LRP(model, preset).explain(x, target=0)
    torch.testing.assert_close(found.output, model(x), rtol=0, atol=0)
    torch.testing.assert_close(found.relevance, torch.tensor([relevance], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert found.audit.constants + found.audit.bias == pytest.approx(absorbed, abs=1e-12)


class Counting(nn.Module):
    """A buffer that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.calls
        self.calls += 1
        return y


def test_a_buffer_of_the_model_is_changed_as_the_model_has_it() -> None:
    model, x = Counting(), torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    for count in range(3):
        found = rp.LRP(model, rp.UniformEpsilon(epsilon=0.0)).explain(x, target=1)
        assert (found.relevance.tolist(), found.audit.constants) == ([[0.0, 5.0]], float(count))
    assert model.calls.item() == 3
