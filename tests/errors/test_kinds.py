"""`Kind` takes the words that operations go by, a user's own too, and refuses others at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.ops import TABLE, Op
from relprop.ops.elementwise import Elementwise
from relprop.selectors import KINDS


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("convolution", "conv, linear"),  # nothing is near enough: the kinds are listed
        ("lnear", "nearest names: linear"),
        ("Conv", "nearest names: conv,"),
        ("Conv2d", "nearest names: conv2d"),
        ("ReLU", "nearest names: relu,"),
        ("residuals", "nearest names: residual"),
    ],
)
def test_a_word_that_no_operation_goes_by(word: str, near: str) -> None:
    with pytest.raises(rp.SelectorError, match=f"no operation is of kind '{word}'.*{near}"):
        rp.Kind("conv", word)


def test_the_kinds_are_those_that_the_operations_have() -> None:
    source = "".join(path.read_text() for path in Path(rp.__file__).parent.joinpath("ops").glob("*.py"))
    made = set(re.findall(r'kind = "(\w+)"', source)) | {"routing"}  # by an expression
    assert set(KINDS) == made | {"residual"}  # a sum, once its operands are known
    assert len(KINDS) == len(set(KINDS))


def test_every_function_that_has_a_parser_is_one() -> None:
    for entry in (TABLE.get(function) for function in TABLE):
        assert entry is not None and rp.Kind(entry.name).kinds == (entry.name,)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.deg2rad(x)


def test_a_kind_and_a_function_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("angle change", "deg2rad"):
        with pytest.raises(rp.SelectorError, match=word):
            rp.Kind(word)

    class Angle(Elementwise):
        kind = "angle change"

    monkeypatch.setattr(TABLE, "_entries", dict(TABLE._entries))

    @rp.op("deg2rad")
    def deg2rad(call: Any) -> Op:
        made = Angle("deg2rad", at_zero=torch.pi / 180)
        made.operands, made.run = call.bind("input"), call.run
        return made

    x = torch.ones(1, 2)
    for word in ("angle change", "deg2rad"):
        plan = rp.LRP(Doubled(), [(rp.Kind(word), rp.Pass())]).plan(x)
        assert [str(decision.rule) for _, decision in plan] == ["Pass()"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: rp.Entry("conv"), r"Entry counts what a selector matches, got 'conv': write Kind\(\"conv\"\)"),
        (lambda: rp.First(nn.Conv2d), r"First counts .*: write Type\(Conv2d\)"),
        (lambda: rp.Last(3), r"Last counts .* got 3: write Type\(nn\.Conv2d\)"),
        (lambda: rp.Index("a"), r"Index: index must be a whole number, got 'a'"),
        (lambda: rp.Index(True), r"Index: index must be a whole number, got True"),
        (lambda: rp.Range(0, 2.5), r"Range: stop must be a whole number, got 2\.5"),
        (lambda: rp.FirstN(-1), r"FirstN: n must not be negative, got -1; the last are Range\(-1, None\)"),
    ],
)
def test_positions_that_are_none(made: Any, message: str) -> None:
    with pytest.raises(rp.SelectorError, match=message):
        made()


def test_selectors_are_combined_with_selectors() -> None:
    for combined in (lambda: rp.Kind("conv") & "linear", lambda: "linear" | rp.Kind("conv")):
        with pytest.raises(TypeError, match="unsupported operand"):
            combined()
