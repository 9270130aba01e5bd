"""Books that do not balance: the message names who lost relevance, and nobody who did not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.explain.audit import lost
from relprop.ops import TABLE, Native

BOOKS = rp.LRP(nn.Linear(3, 2)).explain(torch.ones(1, 3), target=0).audit
LOST = replace(BOOKS, seed=BOOKS.explained + 2.0, scale=1.0)


class Loses(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return torch.deg2rad(h)


def test_sites_whose_share_is_rounding_are_not_shown() -> None:
    rounding, large, unknown = ("a.linear", 1e-7), ("b.linear", -0.5), ("c.linear", float("nan"))
    assert not LOST.balanced
    found = replace(LOST, sites=(large, unknown, rounding))
    assert found.worst == (large, unknown)
    assert "worst site: b.linear  -0.5" in str(found) and "a.linear" not in str(found)
    assert "a.linear" not in found._repr_html_() and "b.linear" in found._repr_html_()
    balanced = replace(BOOKS, sites=(rounding,))
    assert balanced.balanced and "worst site: a.linear  +1e-07" in str(balanced)


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function is said to be of degree one, and adds a constant that nothing books."""
    monkeypatch.setattr(TABLE, "_entries", dict(TABLE._entries))

    @rp.op("deg2rad")
    def parse(call: Any) -> Native:
        return Native(run=lambda h: h + 1.0, operands=(call.args[0],))


def test_a_native_operation_that_lost_it_is_named(losing: None) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Loses(), nn.Flatten(), nn.Linear(4, 2)).double()
    with pytest.raises(rp.AuditError) as caught:
        rp.LRP(model).explain(torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4), target=0)
    said = str(caught.value)
    assert "\nNo site accounts for it: an operation that runs natively, without a row in the plan, lost it. " in said
    assert "Such ran: 1.deg2rad, 2.flatten.\n" in said and "worst site" not in said


def test_a_site_that_lost_it_is_no_native_operation() -> None:
    assert lost(replace(LOST, sites=(("b.linear", -0.5),)), {"flatten": "2"}) == ""
    many = {f"f{i}": "" for i in range(20)}
    assert lost(LOST, many).endswith("(model).f10, (model).f11 and 8 more.\n")
    assert lost(LOST, {}).endswith("lost it.\n")
