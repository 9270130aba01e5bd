"""The layers of the package.

Imports point down, the core stands on torch and numpy, importing does no work.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import relprop

ROOT = Path(relprop.__file__).parent


def listed_order() -> list[str]:
    """The modules that the package's docstring lists, bottom up."""
    return re.findall(r"^(\w+)  +\S", relprop.__doc__ or "", flags=re.MULTILINE)


def module_of(path: Path) -> str:
    """The top-level module or subpackage that a file belongs to; "" is the package's own `__init__`."""
    first = path.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(source: str, package: str) -> Iterator[tuple[str, int]]:
    """The modules of this package that a source imports, at whatever depth in it, with the line.

    `package` is the dotted name of the package the source lies in, for relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "relprop":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            if target == "relprop":
                for alias in node.names:  # `from relprop import render`
                    yield f"relprop.{alias.name}", node.lineno
            elif target.split(".")[0] == "relprop":
                yield target, node.lineno


def layer(name: str, modules: set[str]) -> str:
    """`relprop.render.figure` belongs to `render`; `relprop.LRP` to the package's own `__init__`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in modules else ""


FILES = sorted(ROOT.rglob("*.py"))
MODULES = {module_of(path) for path in FILES} - {""}
ORDER = listed_order()


def edges() -> Iterator[tuple[str, str, str]]:
    for path in FILES:
        here = module_of(path)
        package = ".".join(["relprop", *path.relative_to(ROOT).parts[:-1]])
        for name, line in imported(path.read_text(encoding="utf-8"), package):
            yield here, layer(name, MODULES), f"{path.relative_to(ROOT)}:{line} imports {name}"


def points_down(here: str, there: str, order: list[str]) -> bool:
    """Whether a module may import another: itself, or one that is listed before it; `__init__` may all."""
    if here in ("", there):
        return True
    # The package's own `__init__` re-exports the core: only what stands above the core may use it.
    return there != "" and order.index(there) < order.index(here)


def test_every_module_is_listed() -> None:
    assert sorted(ORDER) == sorted(MODULES), "the docstring of relprop lists every module once, bottom up"


def test_imports_point_down() -> None:
    wrong = []
    for here, there, text in edges():
        # Explanation.save, Plan's display and their like hand over to what draws, when they are called.
        lazy = (here, there) in {("plan", "render"), ("explain", "render"), ("explain", "text")}
        if not lazy and not points_down(here, there, ORDER):
            wrong.append(text)
    assert not wrong, "\n".join(wrong)


def test_the_lazy_exceptions_are_lazy() -> None:
    for path in (ROOT / "plan.py", *(ROOT / "explain").rglob("*.py")):
        top = ast.Module(
            body=[n for n in ast.parse(path.read_text()).body if isinstance(n, (ast.Import, ast.ImportFrom))],
            type_ignores=[],
        )
        names = {layer(name, MODULES) for name, _ in imported(ast.unparse(top), "relprop.explain")}
        assert not names & {"render", "text"}, f"{path.name} imports {names} when it is imported"


@pytest.mark.parametrize(
    ("source", "package", "wanted"),
    [
        ("import relprop.render.figure", "relprop.ops", ["relprop.render.figure"]),
        ("from relprop import render", "relprop.ops", ["relprop.render"]),
        ("from ..render import grid", "relprop.ops", ["relprop.render"]),
        ("from . import base", "relprop.ops", ["relprop.ops"]),
        ("def f():\n    from relprop.cli import main", "relprop.ops", ["relprop.cli"]),
        ("import torch", "relprop.ops", []),
    ],
)
def test_no_form_of_import_is_missed(source: str, package: str, wanted: list[str]) -> None:
    assert [name for name, _ in imported(source, package)] == wanted


def test_an_import_that_points_up_is_caught() -> None:
    assert not points_down("ops", "rules", ["ops", "rules"])
    assert points_down("rules", "ops", ["ops", "rules"])
    assert not points_down("ops", "", ["ops", "rules"])


def run(code: str) -> str:
    """Run Python in a fresh process, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_core_stands_on_torch_and_numpy() -> None:
    found = json.loads(
        run(
            "import torch, numpy, sys, json; before = set(sys.modules); import relprop; "
            "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
        )
    )
    outside = {name for name in found if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert outside - {"torch", "numpy"} == {"relprop"}


def test_the_command_line_imports_what_it_needs_when_it_needs_it() -> None:
    run("import sys, relprop.cli; assert not {'click', 'matplotlib', 'PIL'} & set(sys.modules)")


def test_importing_does_no_work() -> None:
    # No thread, no random number, no setting of torch, no file left open.
    run(
        "import threading, torch\n"
        "state = torch.random.get_rng_state(); threads = torch.get_num_threads(); mode = "
        "torch.is_grad_enabled()\n"
        "dtype = torch.get_default_dtype(); relu = torch.nn.ReLU.forward; call = torch.nn.Module.__call__\n"
        "import relprop, relprop.render, relprop.models\n"
        "assert torch.equal(state, torch.random.get_rng_state()) and threads == torch.get_num_threads()\n"
        "assert mode == torch.is_grad_enabled() and dtype == torch.get_default_dtype()\n"
        "assert relu is torch.nn.ReLU.forward and call is torch.nn.Module.__call__\n"
        "assert threading.active_count() == 1\n"
        "hooks = torch.nn.modules.module\n"
        "assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks\n"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_the_version_is_said_once() -> None:
    from importlib.metadata import version

    project = (ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{version("relprop")}"' in project
