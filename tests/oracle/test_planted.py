"""The tests can fail: errors planted in the library are caught by the checks of this folder.

Each error is put into the running library for one test. The audit may object before the comparison does; the
comparison alone must object too, so it is tried with the audit's verdict switched off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.explain import audit
from tests.laws.test_formulations import MERGED, fused, same
from tests.laws.test_formulations import RULES as LAW_RULES
from tests.oracle.maps import MAPS, Map
from tests.oracle.rules import RULES, Row
from tests.oracle.test_linear_rules import check
from tests.support.networks import ready

BY_NAME = {case.name: case for case in MAPS}
Linear = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _silent_audit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(audit.Audit, "balanced", True)
    yield


def _wrong_sign(rule: Any, pull: Linear, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Any) -> Tensor:
    return -pull(rule, op, a, z, g, books)


def _ignored_relevance(rule: Any, pull: Linear, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Any) -> Tensor:
    return pull(rule, op, a, z, torch.ones_like(g), books)


def _dropped_epsilon(rule: Any, pull: Linear, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Any) -> Tensor:
    without = copy.copy(rule)
    object.__setattr__(without, "epsilon", 1e-30)
    return pull(without, op, a, z, g, books)


def _swapped_operands(rule: Any, pull: Linear, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Any) -> Tensor:
    """The weight the wrong way round."""
    weight = op.weight.transpose(0, 1).contiguous()
    turned = copy.copy(op)
    turned.__class__ = type("Turned", (type(op),), {"weight": property(lambda self: weight)})
    return pull(rule, turned, a, z, g, books)


def _batch_added_up(rule: Any, pull: Linear, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Any) -> Tensor:
    return pull(rule, op, a, z, g.sum(0, keepdim=True).expand_as(g).contiguous(), books)


ERRORS = {
    "wrong sign": _wrong_sign,
    "ignored relevance": _ignored_relevance,
    "dropped epsilon": _dropped_epsilon,
    "swapped operands": _swapped_operands,
    "batch added up": _batch_added_up,
}
VISIBLE = 1e-4  # a stabiliser above this can be seen in the rows that have it


def _has_visible_epsilon(row: Row) -> bool:
    rule = row.rule((2,))
    return "epsilon" in {f.name for f in fields(rule)} and rule.epsilon > VISIBLE  # type: ignore[attr-defined]


def _planted(error: str, row: Row) -> bool:
    if row.name == "zero" and error not in ("wrong sign", "swapped operands"):
        return False
    if row.name.startswith("flat") and error in ("swapped operands", "dropped epsilon"):
        return False  # its weights are ones and it has no stabiliser
    return error != "dropped epsilon" or _has_visible_epsilon(row)


CASES = [
    pytest.param(error, row, case, id=f"{error}-{row}-{case}")
    for error in ERRORS
    for row in RULES
    for case in ("linear-square", "conv2d-padding")
    if _planted(error, row) and row.name != "z-box-tensor"
]


@pytest.mark.parametrize(("error", "row", "case"), CASES)
def test_planted_error_is_caught(error: str, row: Row, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place: Map = BY_NAME[case]
    check(row, place, True)  # without it the check passes
    rule_type = type(row.rule(place.in_shape))
    pull = rule_type.linear
    monkeypatch.setattr(rule_type, "linear", lambda self, *args: ERRORS[error](self, pull, *args))
    with pytest.raises(AssertionError):
        check(row, place, True)


def test_wrong_sign_of_a_native_map_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.oracle.test_linear_rules import test_rule_on_relevance_of_its_output as on_output

    row = next(row for row in RULES if row.name == "zero")
    on_output(row, BY_NAME["linear"], True, False)
    monkeypatch.setattr(rp.Zero, "native", lambda self, op: lambda g: -g)
    with pytest.raises(AssertionError):
        on_output(row, BY_NAME["linear"], True, False)


def test_swapped_factors_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.oracle import test_splits

    for name, run in (
        ("Proportional", test_splits.test_proportional),
        ("SignalTakesAll", test_splits.test_signal_takes_all),
    ):
        run()
        rule_type = getattr(rp.rules, name)
        product = rule_type.product
        with monkeypatch.context() as patch:
            patch.setattr(rule_type, "product", lambda self, *args, product=product: product(self, *args)[::-1])
            with pytest.raises(AssertionError):
                run()


def test_unhalved_product_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.oracle import test_splits

    test_splits.test_product_gives_half_to_each()
    product = rp.rules.Half.product

    def doubled(self: Any, *args: Any) -> Any:
        return tuple(None if t is None else 2 * t for t in product(self, *args))

    monkeypatch.setattr(rp.rules.Half, "product", doubled)
    with pytest.raises(AssertionError):
        test_splits.test_product_gives_half_to_each()


@pytest.mark.parametrize("rule", [name for name in LAW_RULES if name not in ("zero", "flat")])
def test_unmerged_batch_norm_is_caught(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero and flat give the same whether the two maps are merged or not: a test with them could not fail."""
    make, norm_type, in_shape = MERGED["conv2d-bias"]
    layer, norm = make(), norm_type(4)
    two, x = ready(nn.Sequential(layer, norm)), torch.randn(3, *in_shape, dtype=torch.float64)
    same(two, fused(layer, norm), x, LAW_RULES[rule], 1e-8)
    monkeypatch.setattr(rp.ops.norm, "_merged", lambda *args: None)
    with pytest.raises(AssertionError):
        same(two, fused(layer, norm), x, LAW_RULES[rule], 1e-8)


def test_lost_state_is_caught() -> None:
    """The snapshot sees a hook, a flag, a value, a replaced parameter and a patched class."""
    from tests.support.state import assert_same_state, snapshot

    model = ready(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))

    def value() -> None:
        model[0].weight.data[0, 0] += 1e-9

    def replaced() -> None:
        model[0].bias = nn.Parameter(model[0].bias.detach().clone())

    def flag() -> None:
        model[0].weight.requires_grad_(False)

    def mode() -> None:
        model[1].train()

    def hook() -> None:
        model[1].register_forward_hook(lambda *args: None)

    def attribute() -> None:
        model[1].rule = None

    def grad() -> None:
        model[0].weight.grad = torch.zeros_like(model[0].weight)

    for change in (value, replaced, grad, flag, mode, hook, attribute):
        before = snapshot(model)
        change()
        with pytest.raises(AssertionError):
            assert_same_state(before, snapshot(model))
    before = snapshot(model)
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        with pytest.raises(AssertionError):
            assert_same_state(before, snapshot(model))
    finally:
        handle.remove()
