"""autoLRP's rules, configurations and metrics beside ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.tables import Row, check, rows, set_up


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    pytest.importorskip("autolrp", reason="compares with autoLRP")
    return set_up("autolrp.md")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", rows("autolrp.md"), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names, rtol=1e-4)
