"""The table explainer beside explainiverse's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.tables import Row, check, rows, set_up

pytest.importorskip("explainiverse", reason="compares with explainiverse")
pytest.importorskip("pandas", reason="frames need pandas")
pytest.importorskip("shap", reason="explainiverse imports it")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Setting .*hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(shap|numba|explainiverse|lime).*"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning"),
]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return set_up("explainiverse.md")


@pytest.mark.parametrize("row", rows("explainiverse.md"), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names)
