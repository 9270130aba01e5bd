"""The pages in docs/ run as they stand there, and what they point to exists."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import relprop
import relprop.presets
import relprop.rules
from relprop.explain.choose import choose
from relprop.ops import TABLE
from relprop.plan import Plan
from relprop.presets import Preset
from relprop.record.nodes import NODES
from relprop.rules import Rule
from relprop.site import Site

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Pages whose blocks run here; those in docs/coming-from need other libraries and have tests of their own.
PAGES = sorted(DOCS.glob("*.md"))
LINKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
NAMED = re.compile(r"`((?:src|tests|docs|benchmarks)/[\w./*-]+|[\w-]+\.(?:txt|toml|md)|LICENSE|Makefile)`")


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """The fenced Python of a page, each with the line it starts on."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, found.start()) + 2, found.group(1)


def printed(page: Path) -> dict[int, str]:
    """What the page says a block prints, by the block's line: the text fence that follows it."""
    text = page.read_text(encoding="utf-8")
    found, last = {}, 0
    for fence in re.finditer(r"^```(python|text)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if fence.group(1) == "python":
            last = text.count("\n", 0, fence.start()) + 2
        elif last:
            found[last], last = fence.group(2), 0
    return found


def told(output: str) -> list[str | float]:
    """The words and numbers of an output; what rounding decides is 0."""
    words = []
    for word in output.split():
        number = re.fullmatch(r"([-+]?[\d.]+(?:e[-+]?\d+)?)%?", word)
        words.append(round(float(number.group(1)), 4) + 0.0 if number else word)
    return words


def needs(page: Path) -> list[str]:
    """The packages a page asks for, in a comment in its first line: `<!-- needs: skimage matplotlib -->`."""
    found = re.match(r"<!-- needs: (.*?) -->", page.read_text(encoding="utf-8"))
    return found.group(1).split() if found else []


@pytest.fixture
def _registrations_end_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is gone after it."""
    monkeypatch.setattr(TABLE, "_entries", dict(TABLE._entries))
    monkeypatch.setattr(NODES, "_pulls", dict(NODES._pulls))
    monkeypatch.setattr(NODES, "_classes", dict(NODES._classes))
    monkeypatch.setattr(NODES, "_modules", NODES._modules.copy())


@pytest.mark.usefixtures("_registrations_end_here")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks of a page, in order, in one namespace; they print what the page says they print."""
    for module in needs(page):
        pytest.importorskip(module, reason=f"docs/{page.name} uses it")
    monkeypatch.chdir(tmp_path)
    name = f"docs_{page.stem.replace('-', '_')}"
    module = type(sys)(name)  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, name, module)
    outputs = printed(page)
    for line, source in blocks(page):
        # blank lines before it, so that a traceback gives the line of the page
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), module.__dict__)
        out = capsys.readouterr().out
        if line in outputs:
            assert told(out) == told(outputs[line]), f"docs/{page.name}:{line} prints\n{out}"


def test_there_is_something_to_run() -> None:
    assert {p.stem for p in PAGES} >= {"index", "rules", "selectors", "extending", "audit"}
    assert all(any(True for _ in blocks(p)) for p in PAGES if p.stem != "design")


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.stem)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    missing = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            missing.append(target)
    missing += [name for name in NAMED.findall(text) if not list(ROOT.glob(name.rstrip("/")))]
    assert not missing, f"{page.relative_to(ROOT)} points to what is not there: {missing}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are commonly made."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


def public(base: type) -> set[str]:
    """The subclasses of `base` that stand in the package's own modules."""
    spaces = (relprop, relprop.rules, relprop.presets)
    return {
        name
        for space in spaces
        for name, value in vars(space).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }


@pytest.mark.parametrize(("base", "page"), [(Rule, "rules.md"), (Preset, "rules.md"), (Preset, "which-preset.md")])
def test_every_one_is_on_the_page(base: type, page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    names = public(base)
    assert len(names) > 10
    missing = {name for name in names if not re.search(rf"`(?:relprop\.rules\.)?{name}\b", text)}
    assert not missing, f"docs/{page} does not mention {sorted(missing)}"


def test_every_page_is_on_the_first() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    globbed = {p for pattern in re.findall(r"^(\S+\*)$", text, flags=re.MULTILINE) for p in DOCS.glob(f"{pattern}.md")}
    missing = [p.name for p in PAGES if p.name != "index.md" and p not in globbed and f"]({p.name})" not in text]
    assert not missing, f"docs/index.md does not link {missing}"


#: What runs in a model, in the order of the rows of the table in which-preset.md.
RUNS = [
    ("selection", "conv", "linear"),
    ("attention", "conv", "linear"),
    ("softmax", "matmul", "linear"),
    ("recurrent", "conv", "linear"),
    ("conv", "linear"),
    ("linear", "activation"),
]


def first_cells(page: str, column: int, header: str) -> list[str]:
    """The code in one column of the page's table with this header."""
    lines = (DOCS / page).read_text(encoding="utf-8").split(header)[1].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [found.group(1) for row in rows if (found := re.search(r"`(.*)`", row.split("|")[column + 1]))]


def test_the_chosen_preset_is_that_of_the_page() -> None:
    written = first_cells("which-preset.md", 1, "| what runs | preset | reason |")
    plans = [Plan("", tuple(Site(("",), None, k, k, "", i) for i, k in enumerate(kinds)), ()) for kinds in RUNS]
    assert written == [repr(choose(plan)[0]) for plan in plans]


@pytest.mark.parametrize("written", first_cells("rules.md", 0, "| preset | rules | source |"))
def test_a_preset_on_the_page_is_the_default(written: str) -> None:
    """With the parameters that are written out, each as it is when left out."""
    given = eval(written, vars(relprop))
    assert given == type(given)()
    if not written.endswith("()"):  # then all but those of every preset are
        own = {f.name for f in fields(given) if f.init} - {"bias", "stabiliser", "epsilon"}
        assert own <= set(re.findall(r"(\w+)=", written)), own
