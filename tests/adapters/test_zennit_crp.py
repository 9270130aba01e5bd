"""Concepts beside zennit-crp's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.tables import Row, check, rows, set_up

pytest.importorskip("crp.attribution", reason="compares with zennit-crp")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:no relevance:relprop.RelpropWarning"),
    pytest.mark.filterwarnings("ignore:.*hook:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return set_up("zennit-crp.md")


@pytest.mark.parametrize("row", rows("zennit-crp.md"), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names)
