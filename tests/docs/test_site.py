"""What the site is made of is complete: every public name has its place, every rule its formula, picture and source."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import relprop
from relprop.rules import LinearRule, Rule
from tests.docs.test_docs import DOCS, ROOT, public

API = DOCS / "api"
#: Packages whose names are documented by one directive each; a name that is added to them is documented by itself.
WHOLE = ("adapters.julia", "concepts", "metrics", "models", "render", "tabular", "text", "tuning")


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of docs/_ext."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    yield importlib.import_module
    for name in ("docstrings", "rule_pictures"):
        sys.modules.pop(name, None)


def written() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(API.glob("*.rst")))


def test_every_name_of_the_package_is_in_the_reference() -> None:
    text = written()
    names = {
        name
        for name, value in vars(relprop).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "relprop") != "builtins"
    }
    assert len(names) > 60
    listed = set(re.findall(r"^\.\. auto\w+:: (?:relprop\.)?(?:\w+\.)*(\w+)$", text, flags=re.MULTILINE))
    assert not names - listed, f"docs/api does not list {sorted(names - listed)}"


@pytest.mark.parametrize("name", WHOLE)
def test_packages_are_documented_whole(name: str) -> None:
    found = re.search(rf"automodule:: relprop\.{re.escape(name)}\n   :members:\n   :imported-members:", written())
    assert found, f"docs/api has no page for the whole of relprop.{name}"


def test_every_page_of_the_reference_is_listed() -> None:
    index = (API / "index.rst").read_text(encoding="utf-8")
    missing = [p.stem for p in API.glob("*.rst") if p.stem != "index" and f"   {p.stem}\n" not in index]
    assert not missing


def concrete() -> set[str]:
    """The rules that are there to be used; the others are bases."""
    return public(Rule) - {"StepRule", LinearRule.__name__}


def test_every_rule_has_formula_picture_and_source() -> None:
    text = (DOCS / "rules.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, flags=re.DOTALL | re.MULTILINE))
    for name in sorted(concrete()):
        section = sections.get(name)
        assert section is not None, f"docs/rules.md has no section {name}"
        assert re.search(r"^\$\$.+\$\$$", section, flags=re.MULTILINE), f"{name} has no formula"
        assert f"```{{image}} generated/rules/{name}.svg" in section, f"{name} has no picture"
        assert re.search(r"\[[^\]]{4,}\](?!\()", section), f"{name} has no source"


def test_every_rule_has_a_picture_drawn_from_what_the_engine_returns(extension, tmp_path: Path) -> None:
    pictures = extension("rule_pictures")
    assert {type(rule).__name__ for rule in pictures.CASES} == concrete()
    pictures.make(tmp_path)
    for name in concrete():
        drawn = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert drawn.count("<path") > 5 and "nan" not in drawn


def test_a_picture_shows_the_rule_s_own_numbers(extension) -> None:
    """LRP-0 by hand: contributions are relevance, and the bias keeps its own."""
    pictures = extension("rule_pictures")
    shown = pictures.linear(relprop.Zero())
    assert shown.relevance == pytest.approx([2.0, -1.5, 0.0, 0.75, 0.8, 1.0])
    assert shown.rest == pytest.approx({"bias": 0.5})
    flat = pictures.linear(relprop.Flat())
    assert flat.relevance == pytest.approx([3.55 / 6] * 6) and flat.rest == {}


def test_examples_are_in_the_gallery() -> None:
    """Every folder of examples has a heading, every example one too, and a picture or a page to show."""
    folders = [f for f in (ROOT / "examples").iterdir() if f.is_dir() and list(f.glob("*.py"))]
    assert {"data", "choosing"} <= {f.name for f in folders}
    for folder in folders:
        assert (folder / "GALLERY_HEADER.rst").is_file()
        for example in folder.glob("*.py"):
            assert re.match(r'"""\n.+\n=+\n\n', example.read_text(encoding="utf-8")), example


def test_links_into_the_gallery_have_an_example() -> None:
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for folder, stem in re.findall(r"gallery/(\w+)/(?:images/sphx_glr_)?([a-z_]+?)(?:_\d{3}\.png)?[>`\s]", text):
            assert (ROOT / "examples" / folder / f"{stem}.py").is_file(), f"{page.name}: {folder}/{stem}"


DOCSTRING = """Say `x` of *args, |a| and w_: it holds.

R_j = sum_k  a_j w_jk / z_k  R_k

model      any `nn.Module`
composite  a preset,
           or rows

Args:
    low, high: bounds of the `input`, in
        its units.

Raises:
    InputError: for none.

As in:

    lrp = LRP(model)
"""

TRANSLATED = """Say ``x`` of \\*args, \\|a\\| and w\\_: it holds.

::

    R_j = sum_k  a_j w_jk / z_k  R_k

``model``
    any ``nn.Module``
``composite``
    a preset,
    or rows

**Parameters**

``low, high``
    bounds of the ``input``, in
    its units.

**Raises**

``InputError``
    for none.

As in:

::

    lrp = LRP(model)

"""


def test_docstrings_become_restructured_text(extension) -> None:
    assert "\n".join(extension("docstrings").translate(DOCSTRING.splitlines())) == TRANSLATED.rstrip("\n") + "\n"
