"""`relprop report`: the page holds what was asked for, and mistakes cost nothing."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import relprop as rp
from relprop.cli import main
from relprop.models.sources import from_file
from tests.cli.conftest import Said
from tests.render.test_page import EVIL, Page, check_closed, held

Run = Callable[..., Said]


def views(path: Path) -> list[dict[str, Any]]:
    return Page(path).data["views"]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("cat\ndog\nbird\n")
    return path


def test_presets_and_targets_are_all_there(
    relprop: Run, photo: Path, network: Path, classes: Path, tmp_path: Path
) -> None:
    given = ("--model", f"{network}:make", "--size", 24, "--classes", classes)
    chosen = ("--preset", "EpsilonPlus", "--preset", "UniformEpsilon(epsilon=0.1)", "--target", "bird", "--target", 0)
    said = relprop("report", photo, *given, *chosen, "--output", tmp_path / "a.html")
    assert said.code == 0, said.err
    assert "explained: bird (2)" in said.out and "explained: cat (0)" in said.out and "a.html" in said.out
    assert said.err == ""  # no progress where there is no terminal
    found = views(tmp_path / "a.html")
    names = ["EpsilonPlus", "UniformEpsilon(epsilon=0.1)"]
    assert [(v["rules"], v["target"]) for v in found] == [(n, t) for n in names for t in ("bird (2)", "cat (0)")]
    # The maps are those that Python makes of the same input.
    from relprop.cli.session import prepare

    subject = prepare(str(photo), f"{network}:make", None, size=24)
    rules = (rp.EpsilonPlus(), rp.UniformEpsilon(epsilon=0.1))
    for view, (one, target) in zip(found, [(r, t) for r in rules for t in (2, 0)], strict=True):
        wanted = rp.LRP(from_file(f"{network}:make"), one).explain(subject.x, target=target).relevance[0].sum(0)
        np.testing.assert_allclose(held(view), wanted.numpy(), rtol=1e-3, atol=float(wanted.abs().max()) * 1e-5)


def test_the_page_says_the_command_that_makes_it_again(
    relprop: Run, photo: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rule = "Kind('conv')=Gamma(0.5)"
    relprop("report", photo, "--model", f"{network}:make", "--size", 16, "--rule", rule, "--title", "a 'b'")
    page = tmp_path / "photo-report.html"
    first = Page(page)
    command = next(text for text in first.texts if text.startswith("relprop report"))
    page.unlink()
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command)[1:])
    assert not stopped.value.code
    again = Page(page)
    assert again.data["views"] == first.data["views"] and "a 'b'" in again.texts and command in again.texts


def test_without_choices_the_strongest_class_by_the_suited_preset(
    relprop: Run, photo: Path, network: Path, tmp_path: Path
) -> None:
    said = relprop("report", photo, "--model", f"{network}:make", "--size", 16, "--out", tmp_path / "a.html")
    view = views(tmp_path / "a.html")[0]
    strongest = said.out.split("explained: ")[1].split(" (")[0]
    assert view["target"] == strongest and view["rules"] == "EpsilonPlus"


def test_what_is_asked_for_twice_is_there_once(relprop: Run, photo: Path, network: Path, tmp_path: Path) -> None:
    twice = ("--target", 1, "--target", "1", "--preset", "EpsilonPlus", "--preset", "EpsilonPlus")
    relprop("report", photo, "--model", f"{network}:make", "--size", 16, *twice, "--out", tmp_path / "a.html")
    assert len(views(tmp_path / "a.html")) == 1


def test_names_of_files_and_classes_are_escaped(relprop: Run, photo: Path, network: Path, tmp_path: Path) -> None:
    name = EVIL.replace("/", "∕") + ".png"  # no file name holds a slash
    wicked = tmp_path / name
    wicked.write_bytes(photo.read_bytes())
    listed = tmp_path / "classes.txt"
    listed.write_text(f"{EVIL}\n<b>two</b>\nthree\n")
    given = ("--model", f"{network}:make", "--size", 16, "--classes", listed, "--target", 0, "--title", EVIL)
    said = relprop("report", wicked, *given, "--out", tmp_path / "a.html")
    assert said.code == 0, said.err
    found = Page(tmp_path / "a.html")
    check_closed(found)
    assert name in found.text and EVIL in found.texts
    assert f"{EVIL} (0)" in found.texts and "<b>two</b> (1)" in found.texts
    assert len(found.all("script")) == 2 and not found.all("img", src="x")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--preset", "EpsilonPlusFlt"), "unknown preset 'EpsilonPlusFlt'; nearest names: EpsilonPlusFlat"),
        (("--rule", "Kind('conv')=Gama()"), "unknown rule 'Gama'; nearest names: Gamma"),
        (("--target", "bord", "--classes", "classes.txt"), "bird"),
        (("--target", "7"), "class 7 is out of range: the network has classes 0 to 2"),
        (("--out", "page.png"), "page.png: a page is written as .html"),
        (("--out", "no/page.html"), "there is no folder no"),
        (("--colours", "relevanse"), "nearest names: relevance"),
        (("--reduce", "mean"), "unknown reduction 'mean'; there are sum"),
        (("--percentile", "0"), "percentile must be above 0"),
        (("--smooth", "-1"), "smooth must be"),
        (("--model", "torchvision:vgg17"), "vgg1"),
        (("--outptu", "a.html"), "--output"),
        (("--size", "0"), "--size"),
    ],
)
def test_mistakes_cost_nothing(
    relprop: Run,
    photo: Path,
    network: Path,
    classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = written(tmp_path)
    if "torchvision:vgg17" in wrong:
        pytest.importorskip("torchvision", reason="the nearest of torchvision's names")
    said = relprop("report", photo, "--model", f"{network}:make", "--size", 16, *wrong)
    assert said.code == 2 and message in said.err and said.err.count("\n") == 1, said
    assert written(tmp_path) == before


def written(folder: Path) -> list[Path]:
    """What lies there, besides what Python compiled of the user's module."""
    return sorted(path for path in folder.iterdir() if path.name != "__pycache__")


def test_a_photograph_that_is_not_there(relprop: Run, network: Path) -> None:
    said = relprop("report", "chelsae", "--model", f"{network}:make")
    assert said.code == 2 and "no photograph at chelsae" in said.err and "chelsea" in said.err


def test_the_help_names_every_option(relprop: Run) -> None:
    said = relprop("report", "--help")
    for word in ("PHOTO", "--preset", "--target", "--output", "--title", "--rule", "Repeatable", "PHOTO-report.html"):
        assert word in said.out
    assert "report" in relprop("--help").out


def test_progress_is_told_for_every_map(
    photo: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from relprop import progress

    told: list[str] = []
    monkeypatch.setattr(progress.Progress, "step", lambda self, text: told.append(text))
    given = ["report", str(photo), "--model", f"{network}:make", "--size", "16", "--out", str(tmp_path / "a.html")]
    with pytest.raises(SystemExit):
        main([*given, "--target", "0", "--target", "2", "--preset", "EpsilonPlus", "--preset", "Zero"])
    explaining = [text for text in told if text.startswith("explaining")]
    assert explaining == [f"explaining class {t} with {r}" for r in ("EpsilonPlus", "Zero") for t in (0, 2)]
    assert told[0] == "loading" and told[-1] == "writing the page"
