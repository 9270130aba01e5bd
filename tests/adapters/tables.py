"""Running the tables of docs/coming-from: their call beside ours, row by row.

A page's Python blocks are its set-up. In a table with three columns the first two are calls and the third says how
the results differ: "none ..." means that they must be equal; "X raises E ..." that their call raises E; anything else
that both must run. In a table with two columns the first is our call. A row whose first cell is no Python (another
language) has ours alone run.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

PAGES = Path(__file__).parents[2] / "docs" / "coming-from"


@dataclass(frozen=True)
class Row:
    """One row: their call ("" where there is none to run), our call, and what the last column says."""

    theirs: str
    ours: str
    said: str

    def __str__(self) -> str:
        return self.ours[:70]


def page(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


def rows(name: str, *, run_theirs: bool = True) -> list[Row]:
    """The rows of all tables whose header names relprop."""
    found, ours = [], None
    for line in page(name).splitlines():
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if not cells:
            ours = None
        elif "relprop" in cells:
            ours = cells.index("relprop")
        elif ours is not None and not set(cells[0]) <= set("-: "):
            code = re.findall(r"`+([^`]+)`+", cells[ours])
            assert len(code) == 1, f"{name}: our cell must hold one call: {line}"
            theirs = re.findall(r"`+([^`]+)`+", cells[0]) if ours == 1 and run_theirs else []
            found.append(Row(theirs[0] if theirs else "", code[0].replace("\\|", "|"), cells[-1]))
    assert found, f"{name} has no table"
    return found


def set_up(name: str) -> dict[str, Any]:
    """The names that a page's Python blocks define."""
    namespace: dict[str, Any] = {"__name__": name}
    for block in re.findall(r"```python\n(.*?)```", page(name), flags=re.DOTALL):
        exec(compile(block, name, "exec"), namespace)
    return namespace


def value(code: str, namespace: dict[str, Any]) -> Any:
    """Run statements, and give the value of the last one."""
    tree = ast.parse(code)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr), f"the last statement must have a value: {code}"
    scope = dict(namespace)
    exec(compile(tree, "row", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "row", "eval"), scope)


def check(row: Row, namespace: dict[str, Any], rtol: float = 1e-5) -> None:
    """Run a row, and hold it to what its last column says."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = value(row.ours, namespace)
        assert result is not None
        if not row.theirs:
            return
        raises = re.match(r".* raises (\w+)", row.said)
        if raises:
            with pytest.raises(Exception) as caught:
                value(row.theirs, namespace)
            assert type(caught.value).__name__ == raises[1]
            return
        wanted = value(row.theirs, namespace)
    if row.said.startswith("none"):
        assert_equal(result, wanted, rtol)
    else:
        assert row.said, "the last column must say what differs"


def assert_equal(ours: Any, theirs: Any, rtol: float) -> None:
    """Equal up to `rtol` of the largest entry, in the same structure."""
    if isinstance(theirs, Tensor | np.ndarray):
        a, b = torch.as_tensor(ours).detach(), torch.as_tensor(theirs).detach()
        assert a.shape == b.shape, f"{tuple(a.shape)} is not {tuple(b.shape)}"
        scale = max(float(b.abs().max()), 1e-3) if b.numel() else 1.0
        torch.testing.assert_close(a.to(b.dtype), b, rtol=0, atol=rtol * scale)
    elif isinstance(theirs, Mapping):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_equal(ours[key], theirs[key], rtol)
    elif isinstance(theirs, Sequence) and not isinstance(theirs, str):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b, rtol)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=rtol)
    else:
        assert ours == theirs
