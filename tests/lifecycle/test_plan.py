"""What a plan says besides its rows: operations without a rule, and why a preset was chosen."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.networks import Cubed


class Model(nn.Module):
    """A function, and a linear map below it where one is wanted."""

    def __init__(self, function: Callable[[Tensor], Any], below: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.function = nn.Linear(4, 4) if below else nn.Identity(), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.below(x))


def exponential(h: Tensor) -> Tensor:
    return torch.matrix_exp(h)


UNKNOWN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a function of torch": (exponential, "matrix_exp"),
    "a custom Function": (lambda h: Cubed.apply(h), "CubedBackward"),
    "in a structure": (lambda h: {"logits": exponential(h), "mean": h.mean()}, "matrix_exp"),
}
X = torch.linspace(-1, 1, 16).reshape(4, 4)


@pytest.mark.parametrize("below", [True, False], ids=["above a layer", "alone"])
@pytest.mark.parametrize("name", UNKNOWN)
def test_the_plan_names_what_has_no_rule(name: str, below: bool) -> None:
    function, operation = UNKNOWN[name]
    lrp = rp.LRP(Model(function, below))
    plan = lrp.plan(X)
    line = f"no rule (explain refuses it, and says how to give it one): (model).{operation}"
    assert plan.unknown == (("", operation),)
    assert str(plan).count(line) == plan.summary().count(line) == plan._repr_html_().count(line) == 1
    with pytest.raises(rp.UnknownOperationError, match=operation):
        lrp.explain(X, target=0)


def test_who_takes_part_in_no_output_is_not_named() -> None:
    plan = rp.LRP(Model(lambda h: (h * 2, exponential(h)), below=True)).plan(X)
    assert plan.unknown == () and "no rule" not in str(plan)


@pytest.mark.parametrize("output", [None, SimpleNamespace(), "text"], ids=str)
def test_an_output_that_cannot_be_told(output: Any) -> None:
    plan = rp.LRP(Model(lambda h: output, below=True)).plan(X)
    assert plan.unknown == ()


def test_the_reason_for_a_preset_is_true() -> None:
    alone, dense = (rp.LRP(Model(exponential, below)).plan(X) for below in (False, True))
    assert "UniformEpsilon() chosen: no convolution, attention, recurrent or dense layer was seen" in str(alone)
    assert "UniformEpsilon() chosen: dense layers run in the model" in str(dense)
